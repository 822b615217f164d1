"""What runs beside a block, and what ends whole."""

import asyncio

import pytest

from troupe.chassis.background import background
from troupe.controlplane.background import whole


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise LookupError("background")


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


async def test_cancelling_takes_effect_after_the_work_has_ended() -> None:
    begun, allowed, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await allowed.wait()
        done.set()

    caller = asyncio.create_task(whole(work()))
    await begun.wait()
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    allowed.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done.is_set()


async def test_the_result_and_the_error_of_whole_work_are_the_callers() -> None:
    async def seven() -> int:
        return 7

    assert await whole(seven()) == 7
    with pytest.raises(LookupError):
        await whole(fail())
