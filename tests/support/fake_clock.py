"""A clock that a test moves."""

import asyncio


class FakeClock:
    """Stands still until `advance`. A sleeper wakes when its time has come."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now, self._monotonic = now, 1_000.0
        self._moved = asyncio.Event()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        wakes = self._monotonic + seconds
        await asyncio.sleep(0)
        while self._monotonic < wakes:
            await self._moved.wait()

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake whose time has come."""
        self._now += seconds
        self._monotonic += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
