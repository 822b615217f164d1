"""Notices when something blocks the event loop. It runs on the loop, so it tells of a block once that is over."""

from typing import Final

import structlog

from troupe.chassis.clock import Clock

BEAT: Final = 0.25
"""Seconds between two looks."""
LATE: Final = 0.25
"""Seconds of delay that count as a block."""

log = structlog.get_logger()


class LoopWatch:
    """Remembers the last block of the loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._blocked_at = float("-inf")
        self._blocked_for = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            began = self._clock.monotonic()
            await self._clock.sleep(BEAT)
            now = self._clock.monotonic()
            if (late := now - began - BEAT) > LATE:
                self._blocked_at, self._blocked_for = now, late
                log.warning("event loop was blocked", seconds=round(late, 3))

    def blocked(self, within: float) -> float:
        """How many seconds the last block took, if it ended within the last `within` seconds; else 0."""
        return self._blocked_for if self._clock.monotonic() - self._blocked_at <= within else 0.0
