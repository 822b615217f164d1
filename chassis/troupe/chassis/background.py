"""Tasks that run beside a block of code and end with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class _Left(Exception):
    """The block was left: the way to cancel a task group from within."""


@contextlib.asynccontextmanager
async def background() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that leaving the block cancels. A task that fails cancels the block, and its error leaves in place
    of that; one error alone leaves as itself, several as a group.

    Cancelling whoever is in the block is never lost, whenever it comes: without an error CancelledError leaves, with
    one it is raised where the caller, having handled that, awaits next."""
    caller = asyncio.current_task()
    assert caller is not None, "the block is entered in a task"
    seen = caller.cancelling()
    try:
        async with asyncio.TaskGroup() as group:
            try:
                yield group
            except asyncio.CancelledError:
                raise
            except BaseException:
                seen = caller.cancelling()
                raise
            # A task group in the block whose task failed may have counted one too many (before Python 3.13).
            seen = caller.cancelling()
            raise _Left
    except BaseExceptionGroup as errors:
        _, others = errors.split(_Left)
        cancelled = caller.cancelling() > seen
        if cancelled:
            # A group that raises errors has passed over a cancellation that came while it waited for its tasks, and
            # raises it with the next await from Python 3.13 on only.
            caller.uncancel()
            caller.cancel()
        if others is None:
            if cancelled:
                await asyncio.sleep(0)
            return
        if len(others.exceptions) == 1:
            raise others.exceptions[0] from others.exceptions[0].__cause__
        raise others from None
