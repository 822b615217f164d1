"""An actor's failures are a stream that holds the newest."""

import asyncio

from troupe.chassis.errors import Unavailable
from troupe.dataplane.actors.failures import MAX_SAID, Failure, Failures


async def test_only_the_newest_is_kept_for_a_slow_reader() -> None:
    failures = Failures()
    failures.put(KeyError("first"))
    failures.put(Unavailable("AWAY", "the second"))
    assert await anext(failures) == Failure("AWAY", "the second")
    waiting = asyncio.ensure_future(anext(failures))
    await asyncio.sleep(0)
    assert not waiting.done(), "each is read once"
    failures.put(KeyError("third"))
    assert (await waiting).reason == "KeyError"
    assert failures.newest == Failure("KeyError", "'third'")


async def test_it_ends_with_its_actor_and_what_is_unread_comes_first() -> None:
    failures = Failures()
    failures.put(KeyError("last"))
    failures.end()
    assert [failure.text async for failure in failures] == ["'last'"]
    assert [failure async for failure in failures] == []


async def test_a_reader_that_waits_hears_of_the_end() -> None:
    failures = Failures()
    reading = asyncio.ensure_future(anext(failures, None))
    await asyncio.sleep(0)
    failures.end()
    assert await reading is None


async def test_a_reader_that_gives_up_is_in_nobodys_way() -> None:
    failures = Failures()
    reading = asyncio.ensure_future(anext(failures))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    failures.put(KeyError("x" * 2 * MAX_SAID))
    assert len((await anext(failures)).text) == MAX_SAID
