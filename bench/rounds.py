"""Measurements one after another, round by round, so that a machine that drifts does so under all of them."""

import sys
from collections.abc import Callable, Mapping


def in_rounds(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each of `measures` once in each round, in the same order: A B C A B C …; the figures of each, by round."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            figures[name].append(measure())
            print(f"round {number}/{rounds} {name}: {figures[name][-1]:,.0f}", file=sys.stderr, flush=True)
    return figures
