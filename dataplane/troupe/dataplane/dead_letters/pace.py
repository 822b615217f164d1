"""Not faster than so many a second. Pure: who asks gives the time and does the waiting."""

CATCH_UP = 0.1
"""Seconds by which one that was held up may run ahead of its rate afterwards."""


class Pace:
    """Spreads things evenly, `rate` of them a second; 0 does not hold anything up. Times are of one clock that never
    goes back."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._next = now

    def wait(self, count: int, now: float) -> float:
        """Seconds until the next `count` of them may begin, which this counts as begun."""
        if not self._rate:
            return 0.0
        begins = max(self._next, now - CATCH_UP)
        self._next = begins + count / self._rate
        return max(0.0, begins - now)

    def at_once(self, most: int) -> int:
        """How many of them to take together, 1 to `most`, so that none is further than CATCH_UP from its time."""
        return max(1, min(most, int(self._rate * CATCH_UP))) if self._rate else most
