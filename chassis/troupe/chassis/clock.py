"""Time as an argument: what waits or stamps takes a Clock, so that tests own the time."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds, twice: `now` for stamps that others read, `monotonic` for durations within this process."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; at once when not positive."""
        ...


class SystemClock:
    """The machine's clocks and the running event loop."""

    # A turn asks some twenty times: nothing stands between it and the clock.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
