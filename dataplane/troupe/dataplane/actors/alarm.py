"""The one time at which an actor looks again by itself."""

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls `ring` once, at the earliest time that it was set to."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring, self._loop = ring, asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring in so many seconds from now, unless it does sooner."""
        loop = self._loop
        at = loop.time() + max(0.0, seconds)
        if self._handle is not None and loop.time() < self._handle.when() <= at:
            return
        self.cancel()
        self._handle = loop.call_at(at, self._rings)

    def cancel(self) -> None:
        """Do not ring."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _rings(self) -> None:
        self._handle = None
        self._ring()
