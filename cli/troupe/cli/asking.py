"""Asking a person before what cannot be taken back."""

import sys


def can_answer() -> bool:
    """Whether a person types what is read."""
    return sys.stdin.isatty()


def agreed(question: str) -> bool:
    """Whether the person says yes. Nothing, and the end of input, is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
