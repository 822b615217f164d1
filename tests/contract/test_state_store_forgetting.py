"""What every state store must do to forget what is old, and to keep what may still be needed."""

from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    EXPIRED,
    KEY,
    NOW,
    OWNER,
    StoreTime,
    attempt,
    cancel,
    commit,
    entry,
    number,
    outgoing,
    promise,
    record,
    reminder,
    seen,
)

from troupe.broker.order import Position
from troupe.dataplane.state import sqlite_forget
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.redis import store as redis
from troupe.dataplane.state.session import RECORD_KEPT, Loaded, Verbs
from troupe.v1.agent_pb2 import VERB_ANSWER_PENDING

DAY = 24 * 3600.0
MONTH = 30 * DAY


async def test_records_and_silent_streams_are_kept_a_day(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    before = await seen(store, ids=("m1",))

    await store.forget(NOW + RECORD_KEPT)
    assert await seen(store, ids=("m1",)) == before

    await store.forget(NOW + RECORD_KEPT + 1)
    loaded = await store.load(KEY)
    assert (loaded.version, loaded.positions, loaded.recent) == (1, {}, [])
    assert await store.record(KEY, "m1") is None


async def test_verbs_are_kept_a_day(store: StateStore, store_time: StoreTime) -> None:
    await store.control(KEY, cancel("m9", "v9"))
    recorded = store_time.now()

    await store.forget(recorded + RECORD_KEPT - 60)
    assert await store.verbs(KEY) == Verbs({"m9"})

    await store.forget(recorded + RECORD_KEPT + 1)
    assert await store.verbs(KEY) == Verbs()
    assert await store.control(KEY, cancel("m9", "v9")) == VERB_ANSWER_PENDING


@pytest.mark.parametrize("where", ["inbox", "schedule"])
async def test_a_skip_that_waits_keeps_no_verb(store: StateStore, store_time: StoreTime, where: str) -> None:
    if where == "inbox":
        await store.put(OWNER, KEY, replace(entry(1, "m9"), skip=True), b"")
    else:
        await store.put(OWNER, KEY, replace(entry(1, "m9"), due=store_time.now() + MONTH), b"")
    await store.control(KEY, cancel("m9", "v9"))

    await store.forget(max(NOW, store_time.now()) + RECORD_KEPT + 1)

    assert await store.verbs(KEY) == Verbs()
    assert await store.control(KEY, cancel("m9", "v9")) == VERB_ANSWER_PENDING


async def test_dead_letters_stay_with_their_journals(store: StateStore) -> None:
    for sequence, fate in enumerate((DEAD, EXPIRED), start=1):
        await store.journal(OWNER, KEY, attempt(entry(sequence)), {"a": b"1"}, starts=True)
        await store.commit(OWNER, commit(entry(sequence), record(fate)))

    await store.forget(NOW + MONTH)

    assert await store.record(KEY, "m1") == record(DEAD)
    assert await store.record(KEY, "m2") == record(EXPIRED)
    await store.put(OWNER, KEY, entry(1, stream="redrive"), b"")
    assert (await store.begin(OWNER, KEY, entry(1, stream="redrive"))).journal == {"a": b"1"}


async def test_a_stream_stays_while_anything_of_it_waits(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    await store.commit(OWNER, commit(entry(1, "a", stream="silent"), record(), 1))
    await store.put(OWNER, KEY, replace(entry(3), skip=True), b"")

    await store.forget(NOW + MONTH)

    assert (await store.load(KEY)).positions == {"gateway": Position(1)}


@pytest.mark.parametrize("how", ["settled alone", "dead", "passed over"])
async def test_a_stream_is_forgotten_whatever_it_brought(store: StateStore, how: str) -> None:
    if how == "passed over":
        await store.pass_over(OWNER, KEY, number(1), 1, NOW)
    else:
        await store.commit(OWNER, commit(entry(1), record(DEAD) if how == "dead" else None))

    await store.forget(NOW + RECORD_KEPT + 1)

    assert (await store.load(KEY)).positions == {}


async def test_a_stream_is_as_young_as_its_last_number(store: StateStore) -> None:
    await store.pass_over(OWNER, KEY, number(1), 1, NOW)
    await store.commit(OWNER, commit(entry(2), record(), now=NOW + DAY))

    await store.forget(NOW + DAY + 1)

    assert (await store.load(KEY)).positions == {"gateway": Position(2, frozenset({1}))}


async def test_what_is_a_day_old_stays_beside_what_is_older(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1, stream="older"), record(), now=NOW - 1))
    await store.commit(OWNER, commit(entry(1, "m2", stream="younger"), record(), 1))

    await store.forget(NOW + RECORD_KEPT)

    loaded = await store.load(KEY)
    assert (set(loaded.positions), loaded.recent) == ({"younger"}, ["m2"])


async def test_a_cancel_stays_until_its_message_is_settled(store: StateStore) -> None:
    await store.put(OWNER, KEY, entry(1), b"")
    await store.begin(OWNER, KEY, entry(1))
    await store.control(KEY, cancel("m1", "v1"))

    await store.forget(NOW + MONTH)

    assert (await store.load(KEY)).verbs.cancelled == {"m1"}


async def test_an_idle_session_goes_whole(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    made = promise("x", "never settled")
    await store.journal(OWNER, KEY, attempt(entry(9, "never settled")), {"a": b"1"}, starts=True, promises=[made])

    await store.forget(NOW + MONTH)
    assert await store.summary(KEY) is not None

    await store.forget(NOW + MONTH + 1)
    assert await store.load(KEY) == Loaded(history=[], inbox=[], recent=[], outbox=[])
    assert await store.promise(KEY, made.id) is None
    await store.put(OWNER, KEY, entry(1, "never settled"), b"")
    assert (await store.begin(OWNER, KEY, entry(1, "never settled"))).journal == {}
    # and what comes after begins anew
    await store.commit(OWNER, replace(commit(entry(1, "never settled"), record(), 0, now=NOW + 2 * MONTH), usage=None))
    summary = await store.summary(KEY)
    assert summary is not None
    assert (summary.version, summary.turns, summary.usage, summary.created) == (1, 1, b"", NOW + 2 * MONTH)


@pytest.mark.parametrize("what", ["inbox", "outbox", "schedule", "reminder"])
async def test_a_session_with_anything_to_come_is_not_idle(store: StateStore, store_time: StoreTime, what: str) -> None:
    turn, far = commit(entry(1), record()), store_time.now() + 3 * MONTH
    if what == "outbox":
        turn = replace(turn, outbox=[outgoing(1)])
    elif what == "reminder":
        turn = replace(turn, remind=[reminder(far)])
    await store.commit(OWNER, turn)
    if what in ("inbox", "schedule"):
        await store.put(OWNER, KEY, replace(entry(2), due=far if what == "schedule" else 0.0), b"")

    await store.forget(NOW + 2 * MONTH)

    assert (await store.load(KEY)).version == 1


async def test_much_is_forgotten_too(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_forget, "FORGOTTEN_AT_ONCE", 3)
    monkeypatch.setattr(redis, "FORGOTTEN_SESSIONS", 2)
    monkeypatch.setattr(redis, "FORGOTTEN_RECORDS", 3)
    for name in range(7):
        key = replace(KEY, session=f"s{name}")
        await store.commit(OWNER, commit(entry(1), record(), key=key))
    await store.delete(OWNER, KEY, {f"m{n}": record(CANCELLED) for n in range(8)}, NOW)

    await store.forget(NOW + 2 * MONTH)

    assert (await store.load(KEY)).recent == []
    assert await store.summaries("", None, 10) == []
