"""How much of revisions is on its way to all workers at once: gRPC holds a copy for each until it is written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

MOST: Final = 64 << 20
"""Bytes. Some revisions of the largest size, or all workers' of a usual one."""

LONGEST: Final = 1.0
"""Seconds that one counts for at most: then it is written, or its worker does not read, for which nobody else waits."""


class Sending:
    """One object for all links. First come, first served."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._used = most, 0
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Wait until `size` bytes have room, and take it until the block is left. What is larger than all of it goes
        alone."""
        async with self._turn:
            while self._used and self._used + size > self._most:
                self._freed.clear()
                await self._freed.wait()
            self._used += size
        try:
            yield
        finally:
            self._used -= size
            self._freed.set()
