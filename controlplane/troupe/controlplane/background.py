"""Work that runs beside a block and ends with it, and work that ends whole."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class _Left(Exception):
    """The block ended well."""


@asynccontextmanager
async def background() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that leaving the block cancels. A task that fails cancels the block, and its error leaves in place
    of that; one error alone leaves as itself, several as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
            raise _Left
    except BaseExceptionGroup as errors:
        _, others = errors.split(_Left)
        if others is None:
            return
        if len(others.exceptions) == 1:
            raise others.exceptions[0] from others.exceptions[0].__cause__
        raise others from None


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, which is short. Cancelling the caller takes effect after `work` has ended, never in the middle:
    for what is done in the store and in memory, or in neither."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


def notice_cancellation() -> None:
    """Raise CancelledError where this task is being cancelled. For whoever handles the errors of a task group and
    goes on: before Python 3.13, a group that fails while its task is cancelled raises its errors alone."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
