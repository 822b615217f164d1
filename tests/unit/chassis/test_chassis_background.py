"""What runs beside a block, and who is cancelled in it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from troupe.chassis.background import background


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise LookupError("background")


class Slow:
    """Work that takes a while to end once it is cancelled."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.ending, self.allowed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._error = error

    async def run(self) -> None:
        self.begun.set()
        try:
            await forever()
        finally:
            self.ending.set()
            await self.allowed.wait()
            if self._error is not None:
                raise self._error


async def cancelled_at(ending: asyncio.Event, allowed: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work`, cancel it when it waits for what it has begun, and let that come to its end."""
    task = asyncio.ensure_future(work())
    await ending.wait()
    task.cancel()
    await asyncio.sleep(0)
    allowed.set()
    await task


async def test_leaving_the_block_ends_the_work() -> None:
    async with background() as group:
        task = group.create_task(forever())
    assert task.cancelled()


async def test_work_that_fails_cancels_the_block_and_leaves_as_itself() -> None:
    with pytest.raises(LookupError, match="background"):
        async with background() as group:
            group.create_task(fail())
            await forever()


async def test_an_error_of_the_block_leaves_as_itself() -> None:
    with pytest.raises(KeyError):
        async with background() as group:
            group.create_task(forever())
            raise KeyError


async def test_several_errors_leave_as_a_group() -> None:
    async def fail_late() -> None:
        try:
            await forever()
        finally:
            raise KeyError

    with pytest.raises(ExceptionGroup) as raised:
        async with background() as group:
            group.create_task(fail_late())
            await asyncio.sleep(0)
            raise LookupError
    assert {type(error) for error in raised.value.exceptions} == {KeyError, LookupError}


async def test_cancelling_while_the_block_is_left_is_not_lost() -> None:
    slow, after = Slow(), list[str]()

    async def work() -> None:
        async with background() as group:
            group.create_task(slow.run())
            await slow.begun.wait()
        after.append("went on")

    with pytest.raises(asyncio.CancelledError):
        await cancelled_at(slow.ending, slow.allowed, work)
    assert after == []


async def test_it_leaves_the_block_once() -> None:
    """Whoever cleans up after it can await."""
    slow, cleaned = Slow(), list[str]()

    async def work() -> None:
        try:
            async with background() as group:
                group.create_task(slow.run())
                await slow.begun.wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    with pytest.raises(asyncio.CancelledError):
        await cancelled_at(slow.ending, slow.allowed, work)
    assert cleaned == ["up"]


async def test_cancelling_while_errors_leave_comes_where_their_handler_awaits_next() -> None:
    slow, after = Slow(KeyError()), list[str]()

    async def work() -> None:
        try:
            async with background() as group:
                group.create_task(slow.run())
                await slow.begun.wait()
        except KeyError:
            after.append("handled")
        await asyncio.sleep(0)
        after.append("went on")

    with pytest.raises(asyncio.CancelledError):
        await cancelled_at(slow.ending, slow.allowed, work)
    assert after == ["handled"]


async def test_a_loop_of_blocks_that_fail_can_be_cancelled_at_any_time() -> None:
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        while True:
            try:
                async with background() as group:
                    group.create_task(fail())
                    await forever()
            except LookupError:
                rounds += 1
            await asyncio.sleep(0)

    for steps in range(20):
        task = asyncio.create_task(work())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5.0)
    assert rounds > 20


async def test_a_timeout_that_ends_while_the_block_is_left_is_a_timeout_of_it() -> None:
    slow = Slow()

    async def work() -> None:
        async with asyncio.timeout(None) as timeout:
            async with background() as group:
                group.create_task(slow.run())
                await slow.begun.wait()
                timeout.reschedule(asyncio.get_running_loop().time())
                asyncio.get_running_loop().call_later(0.05, slow.allowed.set)

    with pytest.raises(TimeoutError):
        await work()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_block_in_a_task_that_is_cancelled_already_is_left_as_any_other() -> None:
    """Cleaning up after a cancellation may use blocks of its own."""
    cleaned = list[str]()

    async def work() -> None:
        try:
            await forever()
        finally:
            async with background() as group:
                group.create_task(forever())
                await asyncio.sleep(0)
            cleaned.append("up")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["up"]


async def test_a_group_that_failed_in_the_block_and_was_handled_there_cancels_nobody() -> None:
    async def passing() -> None:
        await asyncio.sleep(0)
        raise LookupError("handled")

    async with background():
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(passing())

    await asyncio.sleep(0)  # raises where the block has left a cancellation behind
