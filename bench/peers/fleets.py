"""The actors and workers that placements are compared with, and what is counted.

Only the standard library is used here, so that it runs in the environment of any peer.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

LOOKED_UP = 100_000
"""Actors that are looked up while that is timed,"""
PASSES = 5
"""so often, after one time that is not counted."""


def actors(count: int) -> list[str]:
    """Their ids, as they are hashed."""
    return [f"default/default/clerk/session-{number}" for number in range(count)]


def actors_of(workers: int) -> int:
    """How many there are in a fleet of so many workers: 100,000 to 1,000,000."""
    return max(100_000, 1_000 * workers)


def workers(count: int, number: int) -> list[str]:
    """The fleet of one round: others in each."""
    return [f"worker-{number}-{each}" for each in range(count)]


def moved(before: Sequence[Hashable], after: Sequence[Hashable]) -> float:
    """Percent that have another owner than before."""
    return 100 * sum(old != new for old, new in zip(before, after, strict=True)) / len(before)


def spread(owners: Sequence[Hashable], count: int) -> float:
    """What the worker with most has, to the mean of all `count` workers."""
    return max(Counter(owners).values()) * count / len(owners)
