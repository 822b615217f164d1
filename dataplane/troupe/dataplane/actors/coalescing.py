"""How often the text of an answer is shown as it grows. Pure."""

from typing import Final

COALESCE: Final = (0.04, 0.2)
"""Seconds between two token events of one attempt, while the worker is not BUSY and while it is: an event costs about
ten times what a token does."""
BUSY: Final = (1 / 3, 2 / 3)
"""The share of a processor that the loop's thread has, from which on text is coalesced further, and furthest. How late
the loop is would tell too late: that shows only when there is more to do than can be done."""


def coalesce(busy: float) -> float:
    """Seconds between two token events of one attempt where the loop's thread has this share of a processor."""
    (short, long), (from_, to) = COALESCE, BUSY
    return short + (long - short) * min(1.0, max(0.0, (busy - from_) / (to - from_)))
