"""The calls that a server is answering, and how they end when it stops."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc

from troupe.chassis.errors import Unavailable

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext  # generic in the stubs alone
Behaviour = Callable[[Any, Any], Awaitable[Any]]


class RunningCalls:
    """Those of one server."""

    def __init__(self) -> None:
        self._calls: set[_Call] = set()
        self._stopped = False

    async def finish(self, grace: float) -> None:
        """Take no more calls, end streams now (their callers take them up elsewhere) and the others after `grace`
        seconds. What is ended or not taken answers UNAVAILABLE, reason STOPPING."""
        self._stopped = True
        for call in self._calls:
            if call.streams:
                call.end()
        if self._calls:
            await asyncio.wait([call.task for call in self._calls], timeout=grace)
        for call in self._calls:
            call.end()

    async def run(self, behaviour: Behaviour, request: Any, context: Context, *, streams: bool) -> Any:
        """Await the handler of one call. Raises Unavailable where `finish` ended it or came before."""
        if self._stopped:
            raise _stopping()
        call = _Call(context, streams)
        self._calls.add(call)
        try:
            return await behaviour(request, call if streams else context)
        except asyncio.CancelledError:
            if not call.ended:
                raise
            call.task.uncancel()
            raise _stopping() from None
        finally:
            self._calls.discard(call)


class _Call:
    """A call while its handler runs; for the handler of a stream also the context to write to.

    A write that has begun is let finish before the call is ended: gRPC takes no status while it sends a message.
    """

    def __init__(self, context: Context, streams: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.streams = streams
        self.ended = False
        self._context = context
        self._writing = False

    def end(self) -> None:
        self.ended = True
        if not self._writing:
            self.task.cancel()

    async def write(self, message: Any) -> None:
        self._writing = True
        try:
            await self._context.write(message)
        finally:
            self._writing = False
        if self.ended:
            raise asyncio.CancelledError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _stopping() -> Unavailable:
    return Unavailable("STOPPING", "this server is stopping; call again, and one that runs will answer")
