"""What went wrong with one actor, as a stream that holds the newest failure only."""

import asyncio
from dataclasses import dataclass
from typing import Final

from troupe.chassis.errors import TroupeError

MAX_SAID: Final = 1000
"""Characters of an error's text that are kept."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One of them. Not the error itself: its traceback holds what the turn held."""

    reason: str
    """The error's reason, or its class where it has none."""
    text: str


class Failures:
    """An asynchronous iterator for one reader. A failure that nobody has read is gone with the next one: a reader that
    is slow or missing costs nothing. It ends when the actor has stopped; what is unread comes before that."""

    def __init__(self) -> None:
        self.newest: Failure | None = None
        """The last failure, read or not; None before the first."""
        self._unread = self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, error: Exception) -> None:
        """This is the newest failure."""
        reason = error.reason if isinstance(error, TroupeError) else type(error).__name__
        self.newest, self._unread = Failure(reason, str(error)[:MAX_SAID]), True
        self._wake()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._wake()

    def __aiter__(self) -> "Failures":
        return self

    async def __anext__(self) -> Failure:
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            # No event: most actors never fail, and thousands of them are in memory.
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._unread = False
        assert self.newest is not None
        return self.newest

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
