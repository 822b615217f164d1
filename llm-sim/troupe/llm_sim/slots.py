"""How many requests are answered at a time, and how many wait for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from troupe.llm_sim.errors import ApiError
from troupe.llm_sim.metrics import ModelMetrics


class Slots:
    """`running` requests at a time, the next `waiting` of them in the order that they came."""

    def __init__(self, running: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(running)
        self._most = waiting
        self._waiting = 0

    @asynccontextmanager
    async def taken(self, meter: ModelMetrics) -> AsyncIterator[None]:
        """Hold a slot. Raises ApiError 503 at once when too many wait already; safe to cancel."""
        if self._free.locked() and self._waiting >= self._most:
            raise ApiError(503, "The engine is currently overloaded.", type="server_error", code="overloaded")
        self._waiting += 1
        meter.waiting.inc()
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
            meter.waiting.dec()
        meter.running.inc()
        try:
            yield
        finally:
            meter.running.dec()
            self._free.release()
