"""When a server is told of acks: those of one connection together."""

import asyncio
from collections.abc import Callable
from typing import Final

ACK_DELAY: Final = 0.01
"""Seconds that an ack may wait for others. Each write wakes the server, and costs more than all that stands in it."""


class Teller:
    """Of one connection, on the running loop. `emit` writes frames."""

    def __init__(self, emit: Callable[[bytes], None]) -> None:
        self._emit, self._loop = emit, asyncio.get_running_loop()
        self._owing: dict[Callable[[], bytes], None] = {}
        self._timer: asyncio.Handle | None = None
        self._at_once = False

    def owe(self, frames: Callable[[], bytes], *, at_once: bool) -> None:
        """Write what `frames` gives then within ACK_DELAY, or `at_once`: in this turn of the loop."""
        self._owing[frames] = None
        if self._timer is None or (at_once and not self._at_once):
            self._wait_no_more()
            self._at_once = at_once
            self._timer = self._loop.call_soon(self.tell) if at_once else self._loop.call_later(ACK_DELAY, self.tell)

    def tell(self) -> None:
        """Write all that is owed now."""
        self._wait_no_more()
        owing, self._owing = self._owing, {}
        written = b"".join([frames() for frames in owing])
        if written:
            self._emit(written)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
