"""What ends whole."""

import asyncio

import pytest

from troupe.controlplane.whole import whole


async def fail() -> None:
    raise LookupError("background")


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
