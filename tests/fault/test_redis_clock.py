"""The clock of Redis jumps forth and back: what is scheduled comes once, and not before Redis' clock says so."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import redis_server
from support.moved_clock import MovedClock
from support.redis_server import RedisServer
from support.state_stores import KEY, OWNER, attempt, commit, entry, promise, record, reminder, settlement

from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Entry
from troupe.v1 import promise_pb2

OPEN = promise_pb2.PROMISE_STATE_OPEN
MESSAGES, PROMISES, SPAN = 40, 20, 10_000.0
JUMPS = 60


@pytest.fixture
def clock(tmp_path: Path) -> MovedClock:
    return MovedClock(tmp_path)


@pytest.fixture
def server(tmp_path: Path, clock: MovedClock) -> Iterator[RedisServer]:
    with redis_server.running(tmp_path, clock.environment) as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[StateStore]:
    async with connected(server.url()) as store:
        await store.declare(1)
        yield store


def later(due: float, message_id: str) -> Entry:
    return replace(entry(1, message_id, stream=message_id), due=due)


async def test_a_clock_that_jumps_loses_and_repeats_nothing_and_lets_nothing_come_early(
    store: StateStore, clock: MovedClock
) -> None:
    dice, start = random.Random(16), clock.now()
    due = {f"m{number}": start + dice.uniform(1, SPAN) for number in range(MESSAGES)}
    for message_id, at in due.items():
        await store.put(OWNER, KEY, later(at, message_id), b"")
    expires = [promise(f"p{number}", "waits", expires=start + dice.uniform(1, SPAN)) for number in range(PROMISES)]
    await store.journal(OWNER, KEY, attempt(entry(1, "waits")), {}, starts=False, promises=expires)

    came: Counter[str] = Counter()
    expired: set[str] = set()
    for _ in range(JUMPS):
        clock.move_to(dice.uniform(-SPAN, SPAN) if dice.random() < 0.5 else dice.uniform(0, SPAN / 10))
        await store.due(OWNER)

        for placed in (await store.load(KEY)).inbox:
            assert placed.placed == due[placed.message_id] <= clock.now()
            came[placed.message_id] += 1
            await store.commit(OWNER, commit(placed, record(), sum(came.values()) - 1))
        now = {made.id for _, _, made in await store.promises("", None, 1_000, settled=True) if made.state != OPEN}
        assert all(made.expires <= clock.now() for made in expires if made.id in now - expired)
        assert now >= expired
        expired = now

    clock.move_to(SPAN + 1)
    await store.due(OWNER)
    for placed in (await store.load(KEY)).inbox:
        came[placed.message_id] += 1
    assert came == Counter(due.keys())
    assert not await store.promises("", None, 1_000)
    assert (await store.due(OWNER)).following is None


async def test_a_promise_that_expired_stays_so_when_the_clock_goes_back(store: StateStore, clock: MovedClock) -> None:
    made = promise(expires=clock.now() + 100)
    await store.journal(OWNER, KEY, attempt(entry(1)), {}, starts=False, promises=[made])
    clock.move_to(200)
    assert await store.settle_promise(KEY, settlement(made)) == promise_pb2.SETTLEMENT_ANSWER_EXPIRED

    clock.move_to(-200)

    assert await store.settle_promise(KEY, settlement(made)) == promise_pb2.SETTLEMENT_ANSWER_EXPIRED


async def test_occurrences_of_a_reminder_have_one_number_each_however_the_clock_goes(
    store: StateStore, clock: MovedClock
) -> None:
    start = clock.now()
    await store.commit(OWNER, replace(commit(entry(1), record()), remind=[reminder(start + 100, every=100)]))
    came = []
    for ahead in (250, -500, 150, 260, 1_000, 0, 999, 1_101):
        clock.move_to(ahead)
        await store.due(OWNER)
        for placed in (await store.load(KEY)).inbox:
            assert placed.placed <= clock.now()
            came.append((placed.number.sequence, round(placed.placed - start)))
            await store.commit(OWNER, commit(placed, record(), len(came)))

    assert came == [(1, 200), (2, 1_000), (3, 1_100)]


async def test_what_the_schedule_says_comes_next_counts_from_redis_clock(store: StateStore, clock: MovedClock) -> None:
    await store.put(OWNER, KEY, later(clock.now() + 100, "m1"), b"")

    for ahead in (0, -1_000, 50):
        clock.move_to(ahead)
        following = (await store.due(OWNER)).following
        assert following is not None
        assert 99 < following + ahead <= 100
