"""One watcher's queue: what it has not been sent yet, the newest of each worker only."""

import asyncio

from troupe.chassis.errors import ResourceExhausted
from troupe.v1.control_plane_pb2 import WatchStatusResponse

MAX_WAITING = 4_096
"""More than four times the most workers at once: only one that reads nothing while workers come and go gets there."""


class Watch:
    """Bounded by what it holds, however slow its reader: a second piece about one worker takes the first one's place.
    One reader at a time."""

    def __init__(self) -> None:
        self._waiting: dict[str, WatchStatusResponse] = {}
        self._overrun = False
        self._filled = asyncio.Event()

    def put(self, about: str, piece: WatchStatusResponse) -> None:
        """Queue a piece, in the place of the one about the same thing that still waits, or at the end."""
        self._overrun = self._overrun or (len(self._waiting) >= MAX_WAITING and about not in self._waiting)
        if not self._overrun:
            self._waiting[about] = piece
        self._filled.set()

    async def get(self) -> WatchStatusResponse:
        """The piece that has waited longest, once there is one. Raises ResourceExhausted when pieces were lost."""
        await self._filled.wait()
        if self._overrun:
            raise too_slow()
        about = next(iter(self._waiting))
        piece = self._waiting.pop(about)
        if not self._waiting:
            self._filled.clear()
        return piece

    def __len__(self) -> int:
        return len(self._waiting)


def too_slow() -> ResourceExhausted:
    """What ends the stream of a watcher that does not keep up."""
    return ResourceExhausted(
        "WATCHER_TOO_SLOW", "this watcher does not read what it is sent; watch again and read faster", retry_after=1.0
    )
