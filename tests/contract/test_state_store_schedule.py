"""What every state store must do with messages for later, and those that refuse to wait."""

import asyncio
from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    KEY,
    MARK,
    NOW,
    OWNER,
    REJECTED,
    SOON,
    StoreTime,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    inbox,
    number,
    pause,
    place,
    promise,
    record,
    remind,
    reminder,
    resume,
    seen,
)

from troupe.broker.order import Position
from troupe.dataplane.state import schedule
from troupe.dataplane.state.port import Due, Placed, StateStore
from troupe.dataplane.state.session import Backlog, Entry, Owner, Verbs
from troupe.v1.agent_pb2 import VERB_ANSWER_APPLIED as APPLIED
from troupe.v1.agent_pb2 import VERB_ANSWER_TOO_LATE as TOO_LATE
from troupe.v1.turn_pb2 import FATE_SCHEDULED, FATE_WAITING

BOB = replace(KEY, session="bob")


def later(store_time: StoreTime, message_id: str = "m1", *, after: float = SOON) -> Entry:
    """A message that is due then, in a stream of its own."""
    return replace(entry(1, message_id, stream=f"later {message_id}"), due=store_time.now() + after)


async def put(store: StateStore, placing: Entry) -> Placed:
    return await store.put(OWNER, KEY, placing, envelope(placing))


def arrived(scheduled: Entry) -> Entry:
    return replace(scheduled, placed=scheduled.due, due=0.0)


# --- messages for later


async def test_a_message_for_later_takes_its_place_when_it_is_due(store: StateStore, store_time: StoreTime) -> None:
    scheduled = later(store_time)
    assert await put(store, scheduled) is Placed.SCHEDULED
    assert await put(store, scheduled) is Placed.PRESENT

    early = await store.due(OWNER)
    assert early.sessions == []
    assert early.following is not None
    assert 0 < early.following < SOON + 0.01
    assert await inbox(store) == []
    assert await store.session_backlog(KEY) == Backlog(0, 0)
    assert await store.waiting(KEY, "m1") == scheduled
    assert await store.messages(0, "", None, 10) == [(KEY, scheduled, FATE_SCHEDULED)]

    await place(store, entry(1, "m2"))
    await store_time.pass_(SOON * 1.25)
    assert await store.due(OWNER) == Due([KEY], None)

    assert await inbox(store) == [entry(1, "m2"), arrived(scheduled)]
    assert (await store.begin(OWNER, KEY, arrived(scheduled))).envelope == envelope(scheduled)
    assert await store.due(OWNER) == Due([], None)
    assert await put(store, scheduled) is Placed.PRESENT


async def test_a_number_that_is_settled_leaves_the_schedule_whoever_stood_under_it(
    store: StateStore, store_time: StoreTime
) -> None:
    scheduled = later(store_time)
    await put(store, scheduled)

    await store.commit(OWNER, commit(replace(scheduled, message_id="another"), record()))

    assert await store.waiting(KEY, "m1") is None
    assert (await store.due(OWNER)).following is None


@pytest.mark.parametrize("after", [-60.0, 0.0])
async def test_one_whose_time_has_come_takes_its_place_at_once(
    store: StateStore, store_time: StoreTime, after: float
) -> None:
    late = later(store_time, after=after)

    assert await put(store, late) is Placed.NEW
    assert await inbox(store) == [arrived(late)]


async def test_what_is_due_comes_in_the_order_of_its_time(store: StateStore, store_time: StoreTime) -> None:
    first, second = later(store_time, "m2"), later(store_time, "m1", after=SOON + 0.02)
    await put(store, second)
    await put(store, first)
    await store.put(OWNER, BOB, later(store_time, after=3600), b"")
    await store_time.pass_(SOON * 1.25)

    due = await store.due(OWNER)

    assert due.sessions == [KEY]
    assert due.following is not None
    assert 3590 < due.following < 3600
    assert await inbox(store) == [arrived(first), arrived(second)]


async def test_the_schedule_is_the_shard_s(store: StateStore, store_time: StoreTime) -> None:
    await put(store, later(store_time))
    await store_time.pass_(SOON * 1.25)

    assert await store.due(Owner(1, 1, "another")) == Due([], None)
    assert await store.due(OWNER) == Due([KEY], None)


async def test_more_than_one_call_takes_is_due_at_once_again(
    store: StateStore, store_time: StoreTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "DUE_AT_ONCE", 3)
    messages = [later(store_time, f"m{n}", after=SOON + n / 1e5) for n in range(schedule.DUE_AT_ONCE)]
    # At once: before the first is due.
    await asyncio.gather(*(put(store, placing) for placing in messages))
    made = [promise(expires=messages[-1].due + 0.01)]
    await store.journal(OWNER, KEY, attempt(entry(9, "m9")), {}, starts=False, promises=made)
    await remind(store, reminder(messages[-1].due + 0.02))
    await store_time.pass_(SOON * 1.25)

    assert await store.due(OWNER) == Due([KEY], 0.0)
    assert await inbox(store) == [arrived(placed) for placed in messages]
    assert await store.due(OWNER) == Due([KEY], None)
    assert len(await inbox(store)) == schedule.DUE_AT_ONCE + 1


@pytest.mark.parametrize("known", ["waits", "scheduled", "record", "running"])
async def test_a_copy_of_a_known_message_is_a_skip_at_once(
    store: StateStore, store_time: StoreTime, known: str
) -> None:
    first = entry(1, "m1", stream="first")
    match known:
        case "waits":
            await place(store, first)
        case "scheduled":
            await put(store, later(store_time, after=3600))
        case "record":
            await store.commit(OWNER, commit(first, record()))
        case "running":
            await place(store, replace(first, running=MARK))
    copy = replace(entry(1, "m1", stream="copy"), due=store_time.now() + 3600)

    assert await put(store, copy) is Placed.SKIPPED
    assert (await inbox(store))[-1] == replace(arrived(copy), skip=True)
    assert await put(store, entry(1, "m1", stream="third")) is Placed.SKIPPED


async def test_a_copy_that_is_due_after_its_message_was_settled_is_a_skip(
    store: StateStore, store_time: StoreTime
) -> None:
    """Nobody knew of the message while its first step ran."""
    copy = later(store_time)
    await put(store, copy)
    await store.commit(OWNER, commit(entry(1, "m1"), record()))
    assert await store.waiting(KEY, "m1") is None
    assert await store.messages(0, "", None, 10) == []

    # Due at once: there is no reason to wait with settling its number
    assert await store.due(OWNER) == Due([KEY], None)
    assert [waits.skip for waits in await inbox(store)] == [True]


async def test_a_cancel_before_it_came_settles_it_at_once(store: StateStore, store_time: StoreTime) -> None:
    await store.control(KEY, cancel())

    assert await put(store, later(store_time, after=3600)) is Placed.SKIPPED
    assert await store.record(KEY, "m1") == record(CANCELLED, "m1")


async def test_a_cancelled_message_for_later_is_due_at_once_as_a_skip(store: StateStore, store_time: StoreTime) -> None:
    scheduled = replace(later(store_time, after=3600), placed=store_time.now() - 1)
    await put(store, scheduled)

    assert await store.control(KEY, cancel()) == APPLIED

    assert await store.record(KEY, "m1") == record(CANCELLED, "m1")
    assert (await store.waiting(KEY, "m1"), await store.messages(0, "", None, 10)) == (None, [])
    assert await store.due(OWNER) == Due([KEY], None)
    assert await inbox(store) == [replace(scheduled, skip=True, due=0.0)]
    await store.commit(OWNER, commit(scheduled, None))
    assert (await store.load(KEY)).positions == {"later m1": Position(1)}


async def test_a_cancel_makes_none_later_whatever_its_workers_clock_said(
    store: StateStore, store_time: StoreTime
) -> None:
    await put(store, replace(later(store_time), placed=store_time.now() + 3600))
    await store.control(KEY, cancel())

    await store_time.pass_(SOON * 1.25)

    assert await store.due(OWNER) == Due([KEY], None)


async def test_one_with_a_journal_is_cancelled_by_its_turn(store: StateStore, store_time: StoreTime) -> None:
    scheduled = later(store_time)
    await store.journal(OWNER, KEY, attempt(scheduled), {"a": b""}, starts=False)
    await put(store, scheduled)

    assert await store.control(KEY, cancel()) == APPLIED
    assert await store.record(KEY, "m1") is None
    await store_time.pass_(SOON * 1.25)
    await store.due(OWNER)

    assert await inbox(store) == [arrived(scheduled)]
    assert await store.verbs(KEY) == Verbs({"m1"})


async def test_one_that_comes_again_is_not_settled_whatever_its_record_says(
    store: StateStore, store_time: StoreTime
) -> None:
    await store.commit(OWNER, commit(entry(1), record(DEAD)))
    again = replace(later(store_time, after=3600), redriven=True)
    assert await put(store, again) is Placed.SCHEDULED

    assert await store.control(KEY, cancel()) == APPLIED
    assert await store.record(KEY, "m1") == record(CANCELLED, "m1")


async def test_an_attempt_at_one_takes_its_number_from_the_schedule(store: StateStore, store_time: StoreTime) -> None:
    scheduled = later(store_time)
    await put(store, scheduled)
    failed = replace(scheduled, due=0.0, attempts=1, failures=1)

    await store.retry(OWNER, KEY, failed, envelope(scheduled))

    assert await store.due(OWNER) == Due([], None)
    assert await inbox(store) == [failed]
    assert (await store.begin(OWNER, KEY, failed)).envelope == envelope(scheduled)


async def test_a_copy_that_is_due_leaves_the_one_that_waits_in_the_list(
    store: StateStore, store_time: StoreTime
) -> None:
    running = replace(entry(1), running=MARK, attempts=1)
    await put(store, later(store_time))
    await place(store, running)
    await store_time.pass_(SOON * 1.25)

    await store.due(OWNER)

    assert await store.messages(0, "", None, 10) == [(KEY, running, FATE_WAITING)]


async def test_one_may_be_paused_while_it_is_scheduled(store: StateStore, store_time: StoreTime) -> None:
    await put(store, later(store_time))
    assert await store.control(KEY, pause()) == APPLIED
    await store_time.pass_(SOON * 1.25)

    await store.due(OWNER)

    assert await store.verbs(KEY) == Verbs(paused={"m1"})
    assert await store.control(KEY, resume()) == APPLIED


async def test_a_deletion_settles_what_is_on_the_schedule(store: StateStore, store_time: StoreTime) -> None:
    await remind(store, reminder(store_time.now() + 3600))
    await put(store, later(store_time, after=3600))
    await put(store, later(store_time, "m2", after=3600))

    await store.delete(OWNER, KEY, {"m1": record(CANCELLED, "m1")}, NOW)

    assert await store.record(KEY, "m1") == record(CANCELLED, "m1")
    assert await store.control(KEY, cancel()) == TOO_LATE
    assert (await store.due(OWNER)).sessions == [KEY]
    assert [waits.skip for waits in await inbox(store)] == [True]
    # what was not named stays
    assert [listed.message_id for _, listed, _ in await store.messages(0, "", None, 10)] == ["m2"]


async def test_a_number_that_is_settled_leaves_the_schedule(store: StateStore, store_time: StoreTime) -> None:
    scheduled = later(store_time)
    await put(store, scheduled)
    await store.commit(OWNER, commit(scheduled, record(DEAD)))
    await store_time.pass_(SOON * 1.25)

    assert await store.due(OWNER) == Due([], None)
    assert await inbox(store) == []
    assert await put(store, scheduled) is Placed.SETTLED


async def test_a_session_with_anything_on_the_schedule_is_kept_with_its_counters(
    store: StateStore, store_time: StoreTime
) -> None:
    far = 40 * 24 * 3600.0
    await remind(store, reminder(NOW + 2 * far, every=60))
    await put(store, replace(entry(3, "m3", stream="far"), due=store_time.now() + 2 * far))
    await store.pass_over(OWNER, KEY, number(1, "far"), 1, NOW)
    await store.control(KEY, pause("m3"))

    await store.forget(max(NOW, store_time.now()) + far)

    loaded = await store.load(KEY)
    assert (loaded.version, set(loaded.positions)) == (1, {"far"})
    assert loaded.verbs == Verbs(paused={"m3"})
    summary = await store.summary(KEY)
    assert summary is not None
    assert (summary.waiting, summary.scheduled) == (0, 2)


# --- REJECT


def refusing(message_id: str = "m1", stream: str = "refusing") -> Entry:
    return replace(entry(1, message_id, stream=stream), rejection=b"busy")


@pytest.mark.parametrize("busy", ["runs", "waits", "marked", "paused"])
async def test_what_refuses_to_wait_is_rejected_where_anything_runs_or_waits(store: StateStore, busy: str) -> None:
    if busy != "runs":
        await place(store, replace(entry(1, "m9"), running=MARK if busy == "marked" else None))
    if busy == "paused":
        await store.control(KEY, pause("m9"))

    placed = await store.put(OWNER, KEY, refusing(), b"", busy=busy == "runs")

    assert placed is Placed.SKIPPED
    assert (await inbox(store))[-1] == replace(refusing(), skip=True)
    assert await store.record(KEY, "m1") == record(REJECTED, "m1", b"busy")
    assert await store.put(OWNER, KEY, refusing(), b"") is Placed.PRESENT


@pytest.mark.parametrize("free", ["empty", "skip", "scheduled", "journal", "running"])
async def test_but_not_where_nothing_does_or_it_has_begun(store: StateStore, store_time: StoreTime, free: str) -> None:
    message = refusing()
    match free:
        case "skip":
            await put(store, replace(entry(1, "m9"), skip=True))
        case "scheduled":
            await put(store, later(store_time, "m9", after=3600))
        case "journal":
            await store.journal(OWNER, KEY, attempt(message), {"a": b""}, starts=False)
        case "running":
            message = replace(message, running=MARK)

    assert await store.put(OWNER, KEY, message, b"", busy=free in ("journal", "running")) is Placed.NEW
    assert await store.record(KEY, "m1") is None


async def test_a_copy_is_a_skip_before_it_could_be_rejected(store: StateStore) -> None:
    await place(store, entry(1, "m1"))

    await put(store, refusing())

    assert await store.record(KEY, "m1") is None


async def test_a_cancel_that_came_first_goes_before_a_rejection(store: StateStore) -> None:
    await store.control(KEY, cancel())

    await store.put(OWNER, KEY, refusing(), b"", busy=True)

    assert await store.record(KEY, "m1") == record(CANCELLED, "m1")


@pytest.mark.parametrize("busy", ["", "runs", "waits", "before"])
async def test_one_for_later_is_looked_at_when_it_is_due(store: StateStore, store_time: StoreTime, busy: str) -> None:
    scheduled = replace(later(store_time), rejection=b"busy")
    if busy == "before":
        await place(store, entry(1, "m9"))
    assert await put(store, scheduled) is Placed.SCHEDULED
    if busy == "before":
        await store.commit(OWNER, commit(entry(1, "m9"), record()))
    elif busy == "waits":
        await place(store, entry(1, "m9"))
    await store_time.pass_(SOON * 1.25)

    assert await store.due(OWNER, [KEY] if busy == "runs" else []) == Due([KEY], None)

    ended = await store.record(KEY, "m1")
    assert ended == (record(REJECTED, "m1", b"busy") if busy in ("runs", "waits") else None)
    assert (await inbox(store))[-1] == replace(arrived(scheduled), skip=ended is not None)


# --- the same again


async def test_a_repeated_put_or_due_changes_nothing_more(store: StateStore, store_time: StoreTime) -> None:
    await put(store, later(store_time))
    await store_time.pass_(SOON * 1.25)
    await store.due(OWNER)
    before = await seen(store)

    await store.due(OWNER)
    await put(store, later(store_time, after=3600))

    assert await seen(store) == before
