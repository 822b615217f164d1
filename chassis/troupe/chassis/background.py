"""Tasks that run beside a block of code and end with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class _Left(Exception):
    """The block was left: the way to cancel a task group from within."""


@contextlib.asynccontextmanager
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
