"""RESTART of dead letters over every broker: each is found, whoever looks at the same time."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from support.dead_letter_desk import EVERY, Desk, Jumping, Through
from support.fake_clock import FakeClock
from support.hosting import until

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.broker.port import AGENTS, Broker, DeadLetter, HeldLetter
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import Unavailable
from troupe.dataplane.restarting import Restarts
from troupe.v1.envelope_pb2 import Envelope


@dataclass
class Worker:
    """What restarts messages on one worker."""

    desk: Desk
    broker: Broker
    clock: Clock

    def __post_init__(self) -> None:
        self.restarts = Restarts(self.broker, self.desk.store, self.clock)

    async def restart(self, letter: DeadLetter) -> str:
        """What the message says that goes on for the letter's."""
        key = SessionKey.parse(letter.session)
        async with self.restarts.prepared("v", key, letter.message_id, 0) as prepared:
            if prepared.restart is None:
                return "nothing"
            await prepared.done()
            return Envelope.FromString(prepared.restart.envelope).content.text

    async def restart_all(self, letters: Iterable[DeadLetter]) -> list[str]:
        return await asyncio.gather(*map(self.restart, letters))


class Sleeping(FakeClock):
    """Knows how many sleep."""

    sleeping = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeping += seconds > 0
        try:
            await super().sleep(seconds)
        finally:
            self.sleeping -= seconds > 0


@asynccontextmanager
async def another(desk: Desk, clock: Clock) -> AsyncIterator[Worker]:
    """A worker with a connection of its own, where the broker is a server."""
    if not desk.opened.backend.server:
        yield Worker(desk, desk.broker, clock)
        return
    async with desk.opened() as broker:
        await broker.declare(1, ["encoders"])
        yield Worker(desk, broker, clock)


@asynccontextmanager
async def all_held(desk: Desk) -> AsyncIterator[list[HeldLetter]]:
    """Somebody looks at all letters."""
    async with another(desk, FakeClock()) as somebody, somebody.broker.dead_letters() as letters:
        yield [one async for one in letters]


async def test_many_letters_are_found_at_once_and_go(desk: Desk) -> None:
    made = [await desk.keep(number) for number in range(20)]

    async with asyncio.timeout(30):
        found = await Worker(desk, desk.broker, FakeClock()).restart_all(made)

    assert found == [f"text {number}" for number in range(20)]
    assert await desk.left() == []


async def test_two_workers_restart_letters_at_the_same_time(desk: Desk) -> None:
    made = [await desk.keep(number) for number in range(20)]

    async with another(desk, SystemClock()) as one, another(desk, SystemClock()) as other, asyncio.timeout(60):
        found = await asyncio.gather(one.restart_all(made[::2]), other.restart_all(made[1::2]))

    assert sorted(found[0] + found[1]) == sorted(f"text {number}" for number in range(20))
    assert await desk.left() == []


async def test_a_letter_in_somebodys_hands_is_looked_for_again(desk: Desk) -> None:
    made, clock = await desk.keep(1), Sleeping()
    worker = Worker(desk, desk.broker, clock)

    async with asyncio.TaskGroup() as group:
        async with all_held(desk):
            restarting = group.create_task(worker.restart(made))
            await until(lambda: clock.sleeping or restarting.done())
        clock.advance(10)

    assert restarting.result() == "text 1"
    assert await desk.left() == []


async def test_others_look_while_one_waits_to_look_again(desk: Desk) -> None:
    one, other = await desk.keep(1), await desk.keep(2)
    clock = Sleeping()
    worker = Worker(desk, desk.broker, clock)

    async with all_held(desk):
        waiting = asyncio.create_task(worker.restart(one))
        await until(lambda: clock.sleeping or waiting.done())
    async with asyncio.timeout(10):
        assert await worker.restart(other) == "text 2"
    waiting.cancel()
    await asyncio.wait([waiting])

    assert waiting.cancelled() != desk.opened.backend.shows_to_all
    assert not clock.sleeping


async def test_a_letter_that_is_held_for_long_is_no_letter_that_is_gone(desk: Desk) -> None:
    made, clock = await desk.keep(1), Jumping()
    worker, began = Worker(desk, desk.broker, clock), clock.monotonic()

    async with all_held(desk):
        if desk.opened.backend.shows_to_all:
            assert await worker.restart(made) == "text 1"
        else:
            with pytest.raises(Unavailable, match="somebody looks at it"):
                await worker.restart(made)

    assert clock.monotonic() - began < 5


async def test_a_letter_that_was_purged_is_not_looked_for_again(desk: Desk) -> None:
    made = await desk.keep(1)
    await desk.purge()

    async with asyncio.timeout(10):
        assert await Worker(desk, desk.broker, FakeClock()).restart(made) == "nothing"


@pytest.mark.parametrize("does", ["purges", "redrives"])
async def test_who_has_the_letter_may_end_the_search(desk: Desk, does: str) -> None:
    """A purge, or a redrive, that takes its time."""
    made, clock = await desk.keep(1), Sleeping()
    worker, key = Worker(desk, desk.broker, clock), SessionKey.parse(made.session)

    async with asyncio.TaskGroup() as group:
        async with all_held(desk) as (held,):
            restarting = group.create_task(worker.restart(made))
            await until(lambda: clock.sleeping or restarting.done())
            if not restarting.done():
                if does == "purges":
                    await desk.store.purge(key, made.message_id)
                else:
                    await desk.store.redrive(key, made.message_id, Number(made.id, 1))
                await held.remove()
        clock.advance(10)

    assert restarting.result() == ("text 1" if desk.opened.backend.shows_to_all else "nothing")


async def test_a_purge_that_is_cut_off_can_be_done_again(desk: Desk) -> None:
    """Nobody would ever purge the record of a message without a letter."""
    made = await desk.keep(1)
    key = SessionKey.parse(made.session)
    letters = desk.letters(Through(desk.broker, keeps=True))
    with pytest.raises(Unavailable):
        await anext(letters.purge(AGENTS, EVERY, limit=0, dry_run=False))

    found = await desk.store.resting(key, made.message_id)
    assert found is not None
    assert found.purged
    assert await Worker(desk, desk.broker, FakeClock()).restart(made) == "text 1"
