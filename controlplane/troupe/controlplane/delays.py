"""How long to wait before trying again."""

from collections.abc import Callable


def backoff(failures: int, first: float, longest: float, random: Callable[[], float]) -> float:
    """Seconds before the next try after `failures` failures in a row, 1 at least: doubled from `first` on up to
    `longest`, then shortened by up to half, so that many who failed together do not come back together. `random`
    gives 0 to 1."""
    return float(min(longest, first * 2.0 ** min(failures - 1, 32)) * (0.5 + 0.5 * random()))
