"""Work that Ctrl-C ends in its middle, in commands that run a fleet."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from troupe.chassis.lifecycle import Stop

T = TypeVar("T")


async def unless(stop: Stop, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None where `stop` was set before it was done, and it was cancelled. What it raises comes in
    an ExceptionGroup."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        watch = group.create_task(_cancel_on(stop, task))
        task.add_done_callback(lambda _: watch.cancel())
    return None if task.cancelled() else task.result()


async def _cancel_on(stop: Stop, task: "asyncio.Task[Any]") -> None:
    await stop
    task.cancel()
