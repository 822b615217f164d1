"""One timer to the next moment at which there is something to do."""

import asyncio
from collections.abc import Callable

from troupe.chassis.clock import Clock


class Alarm:
    """Calls `ring` on the event loop at the earliest of the moments that it was set to; whoever hears it sets it to
    the next. It may ring a little early, or for nothing where the machine's clock was set back."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock, self._ring = clock, ring
        self._at = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        """Ring at `at`, seconds since the epoch, or before, if it was set to an earlier moment."""
        if at >= self._at:
            return
        self.off()
        self._at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock.now()), self._rang)

    def off(self) -> None:
        """Do not ring until it is set again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, float("inf")

    def _rang(self) -> None:
        self.off()
        self._ring()
