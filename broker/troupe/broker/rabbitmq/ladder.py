"""Which delay queue a message waits in. RabbitMQ releases a queue's messages from its head only, so each queue has
one delay for all, and there is one for each step of the retry schedule and each of five spreads. Pure."""

from bisect import bisect_right

STEPS = (100, 200, 400, 800, 1600)
SPREADS = (80, 90, 100, 110, 120)
"""Percent of a step."""
RUNGS = tuple(step * spread // 100 for step in STEPS for spread in SPREADS)
"""Milliseconds, growing."""
NEAR = RUNGS[0] / 2_000
"""Seconds. What is left of a delay, where it is less, is not waited for: no rung brings it nearer."""

_BOUNDS = (88, 96, 104, 112)
"""Percent of a step, between its spreads. A delay spread evenly over 80 to 120 % meets each of the five as often:
the rung nearest to it would be one at the ends half as often, and one in the middle a quarter of all."""
_EDGES = tuple(
    edge
    for step, after in zip(STEPS, (*STEPS[1:], None), strict=True)
    for edge in (*(step * bound / 100 for bound in _BOUNDS), *([(1.2 * step + 0.8 * after) / 2] if after else []))
)


def rung(delay: float) -> int:
    """The rung for `delay` seconds, in milliseconds: within an eleventh of it, or the nearest."""
    return RUNGS[bisect_right(_EDGES, delay * 1_000)]


def left(delay: float) -> float:
    """Seconds to wait once more after the rung for `delay` seconds; 0 where that is enough. A delay longer than the
    longest rung takes that first."""
    rest = delay - RUNGS[-1] / 1_000
    return rest if rest > NEAR else 0.0
