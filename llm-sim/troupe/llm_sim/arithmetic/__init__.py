"""Arithmetic in what people write: found, and put into the notation of calculators."""

from troupe.llm_sim.arithmetic.grammar import expressions

__all__ = ["expressions"]
