"""What every state store must do with a CANCEL, wherever its message stands."""

from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    DONE,
    EXPIRED,
    KEY,
    MARK,
    NOW,
    OWNER,
    SKIPPED,
    attempt,
    commit,
    entry,
    envelope,
    record,
    seen,
    verb,
)

from troupe.broker.order import Position
from troupe.dataplane.state.errors import CancelRecorded, VersionConflict
from troupe.dataplane.state.port import Placed, StateStore
from troupe.dataplane.state.session import Entry, Record, Verbs, begun
from troupe.v1.agent_pb2 import VERB_ANSWER_APPLIED as APPLIED
from troupe.v1.agent_pb2 import VERB_ANSWER_PENDING as PENDING
from troupe.v1.agent_pb2 import VERB_ANSWER_TOO_LATE as TOO_LATE
from troupe.v1.agent_pb2 import VERB_CANCEL, VerbAnswer
from troupe.v1.turn_pb2 import Fate


async def place(store: StateStore, placing: Entry) -> Placed:
    return await store.put(OWNER, KEY, placing, envelope(placing))


async def cancel(store: StateStore, message_id: str = "m1", verb_id: str = "v1") -> VerbAnswer.ValueType:
    return await store.control(KEY, verb(VERB_CANCEL, message_id, verb_id))


def cancelled(message_id: str) -> Record:
    """The record of a message that was settled without a turn: its digest is the message's own."""
    return record(CANCELLED, message_id, b"by v1")


# --- the answer


async def test_what_nobody_knows_is_pending(store: StateStore) -> None:
    assert await cancel(store) == PENDING
    assert (await store.load(KEY)).verbs.cancelled == {"m1"}
    assert await store.record(KEY, "m1") is None


async def test_what_waits_is_settled_at_once_and_keeps_its_place(store: StateStore) -> None:
    await place(store, entry(1))
    await place(store, entry(2))

    assert await cancel(store) == APPLIED

    loaded = await store.load(KEY)
    assert loaded.inbox == [replace(entry(1), skip=True), entry(2)]
    assert (loaded.positions, loaded.verbs, loaded.recent) == ({}, Verbs(), ["m1"])
    assert await store.record(KEY, "m1") == cancelled("m1")
    # and its number settles in its order
    await store.commit(OWNER, commit(entry(1), None))
    assert (await store.load(KEY)).positions == {"gateway": Position(1)}


async def test_all_copies_that_wait_go_with_it(store: StateStore) -> None:
    running, copy = entry(2, "m1"), entry(1, "m1", stream="other")
    await place(store, running)
    await place(store, copy)

    await cancel(store)

    assert [waiting.skip for waiting in (await store.load(KEY)).inbox] == [True, True]


async def test_what_waits_for_its_next_attempt_is_settled_at_once_when_it_did_nothing(store: StateStore) -> None:
    await place(store, entry(1))
    await store.begin(OWNER, KEY, entry(1))
    await store.retry(OWNER, KEY, replace(entry(1), attempts=1, failures=1, not_before=NOW + 3600), b"")

    assert await cancel(store) == APPLIED
    assert await store.record(KEY, "m1") == cancelled("m1")


@pytest.mark.parametrize("how", ["begun", "running", "journaled", "journaled and failed"])
async def test_what_has_begun_is_left_to_its_turn(store: StateStore, how: str) -> None:
    await place(store, replace(entry(1), running=MARK if how == "running" else None))
    if how in ("begun", "journaled and failed"):
        await store.begin(OWNER, KEY, entry(1))
    if how.startswith("journaled"):
        await store.journal(OWNER, KEY, attempt(entry(1)), {"tool": b"started"}, starts=True)
    if how.endswith("failed"):
        await store.retry(OWNER, KEY, replace(entry(1), attempts=1, failures=1), b"")
    before = await seen(store)

    assert await cancel(store) == APPLIED

    after = await seen(store)
    assert after.loaded == replace(before.loaded, verbs=Verbs({"m1"}))
    assert (after.begun, after.records) == (before.begun, {"m1": None})


async def test_what_runs_with_a_journal_and_never_waited_is_known(store: StateStore) -> None:
    await store.journal(OWNER, KEY, attempt(entry(1)), {"model": b"answer"}, starts=False)

    assert await cancel(store) == APPLIED
    assert (await store.load(KEY)).verbs.cancelled == {"m1"}


@pytest.mark.parametrize("fate", [DONE, DEAD, EXPIRED, CANCELLED, SKIPPED], ids=Fate.Name)
async def test_what_is_settled_cannot_be_cancelled(store: StateStore, fate: Fate.ValueType) -> None:
    await store.commit(OWNER, commit(entry(1), record(fate)))
    before = await seen(store)

    assert await cancel(store) == TOO_LATE
    assert await seen(store) == before


async def test_what_waits_again_is_not_settled_whatever_its_record_says(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record(DEAD)))
    await place(store, replace(entry(2, "m1"), running=MARK))

    assert await cancel(store) == APPLIED


# --- the verb's id


@pytest.mark.parametrize("state", ["unseen", "waiting", "begun", "settled"])
async def test_a_repeated_verb_gets_its_first_answer_and_does_nothing(store: StateStore, state: str) -> None:
    if state != "unseen":
        await place(store, entry(1))
    if state == "begun":
        await store.begin(OWNER, KEY, entry(1))
    if state == "settled":
        await store.commit(OWNER, commit(entry(1), record()))
    first = await cancel(store)
    # Given that the message has moved on meanwhile
    if state == "unseen":
        await place(store, entry(1))
    elif state == "begun":
        await store.commit(OWNER, commit(entry(1), record(CANCELLED)))
    before = await seen(store)

    assert await cancel(store) == first
    assert await seen(store) == before


async def test_a_verb_id_counts_for_each_message_alone(store: StateStore) -> None:
    await place(store, entry(1))
    await place(store, entry(2))

    assert [await cancel(store, "m1"), await cancel(store, "m3"), await cancel(store, "m2")] == [
        APPLIED,
        PENDING,
        APPLIED,
    ]


async def test_another_verb_is_answered_by_what_is_so_now(store: StateStore) -> None:
    await place(store, entry(1))

    assert [await cancel(store, verb_id=verb_id) for verb_id in ("v1", "v2", "v1")] == [APPLIED, TOO_LATE, APPLIED]


# --- what it binds


async def given_cancel(store: StateStore, came: str) -> None:
    """A CANCEL of m1, which has begun and journaled, or came before anything was known."""
    if came == "before":
        assert await cancel(store) == PENDING
    else:
        await place(store, entry(1))
        await store.begin(OWNER, KEY, entry(1))
        await store.journal(OWNER, KEY, attempt(entry(1)), {"tool": b"started"}, starts=True)
        assert await cancel(store) == APPLIED


@pytest.mark.parametrize("came", ["before", "during"])
@pytest.mark.parametrize("fate", [DONE, DEAD, EXPIRED, SKIPPED], ids=Fate.Name)
async def test_a_cancelled_message_ends_in_no_other_way(store: StateStore, came: str, fate: Fate.ValueType) -> None:
    await given_cancel(store, came)
    before = await seen(store)

    with pytest.raises(CancelRecorded):
        await store.commit(OWNER, commit(entry(1), record(fate)))
    assert await seen(store) == before

    await store.commit(OWNER, commit(entry(1), record(CANCELLED)))
    loaded = await store.load(KEY)
    assert (loaded.version, loaded.positions, loaded.verbs) == (0, {"gateway": Position(1)}, Verbs())
    assert await store.record(KEY, "m1") == record(CANCELLED)


@pytest.mark.parametrize("came", ["before", "during"])
async def test_a_cancelled_message_is_not_put_back(store: StateStore, came: str) -> None:
    await given_cancel(store, came)
    before = await seen(store)

    with pytest.raises(CancelRecorded):
        await store.retry(OWNER, KEY, replace(begun(entry(1)), starts=0, failures=1), b"")

    assert await seen(store) == before


@pytest.mark.parametrize("came", ["before", "during"])
async def test_a_cancelled_message_starts_no_step_and_may_note_what_came_of_one(store: StateStore, came: str) -> None:
    await given_cancel(store, came)

    with pytest.raises(CancelRecorded):
        await store.journal(OWNER, KEY, attempt(entry(1)), {"next": b"started"}, starts=True)

    await store.journal(OWNER, KEY, attempt(entry(1)), {"result": b"42"}, starts=False)
    await place(store, entry(1))
    journal = dict((await store.begin(OWNER, KEY, entry(1))).journal)
    assert journal == {"result": b"42"} | ({"tool": b"started"} if came == "during" else {})


async def test_the_verb_comes_before_the_version(store: StateStore) -> None:
    await given_cancel(store, "during")

    with pytest.raises(CancelRecorded):
        await store.commit(OWNER, commit(entry(1), record(), version=9))


async def test_a_settled_number_comes_before_the_verb(store: StateStore) -> None:
    """Its answer was lost, and the CANCEL came after it."""
    await store.commit(OWNER, commit(entry(1), record()))
    await cancel(store, "m9")

    assert await store.commit(OWNER, commit(entry(1, "m9"), record())) == 1
    await store.retry(OWNER, KEY, replace(entry(1, "m9"), attempts=1, failures=1), b"")
    assert (await store.load(KEY)).inbox == []


async def test_a_verb_that_was_too_late_binds_nothing(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record(DEAD)))
    assert await cancel(store) == TOO_LATE

    await store.journal(OWNER, KEY, attempt(entry(2, "m1")), {"a": b"1"}, starts=True)
    assert await store.commit(OWNER, commit(entry(2, "m1"), record())) == 1


async def test_other_messages_are_free(store: StateStore) -> None:
    await given_cancel(store, "during")

    await store.journal(OWNER, KEY, attempt(entry(2)), {"a": b"1"}, starts=True)
    assert await store.commit(OWNER, commit(entry(1, "m2", stream="other"), record())) == 1


async def test_a_turn_that_runs_beside_its_cancelled_copy_cannot_end_otherwise(store: StateStore) -> None:
    # Given a turn in its first step, that only a copy in the inbox tells of
    await place(store, entry(1, "m1", stream="other"))
    await cancel(store)

    with pytest.raises(CancelRecorded):
        await store.commit(OWNER, commit(entry(1), record()))
    await store.commit(OWNER, commit(entry(1), record(CANCELLED, status=b"later")))
    assert await store.record(KEY, "m1") == cancelled("m1")


# --- a CANCEL that came first


async def test_a_message_that_was_cancelled_before_it_came_is_settled_where_it_is_placed(store: StateStore) -> None:
    await cancel(store)

    assert await place(store, entry(1)) is Placed.SKIPPED

    loaded = await store.load(KEY)
    assert (loaded.inbox, loaded.verbs) == ([replace(entry(1), skip=True)], Verbs())
    assert await store.record(KEY, "m1") == cancelled("m1")
    assert await cancel(store) == PENDING
    assert await cancel(store, verb_id="v2") == TOO_LATE


@pytest.mark.parametrize("how", ["journaled", "running", "skip"])
async def test_but_not_when_it_has_begun_or_is_a_skip(store: StateStore, how: str) -> None:
    if how == "journaled":
        await store.journal(OWNER, KEY, attempt(entry(1)), {"a": b"1"}, starts=False)
    await cancel(store)

    placed = await place(store, replace(entry(1), running=MARK if how == "running" else None, skip=how == "skip"))

    assert placed is (Placed.SKIPPED if how == "skip" else Placed.NEW)
    assert await store.record(KEY, "m1") is None
    assert (await store.load(KEY)).verbs.cancelled == {"m1"}


async def test_a_cancelled_session_that_nobody_knows_has_no_summary(store: StateStore) -> None:
    await cancel(store)

    assert await store.summary(KEY) is None
    assert await store.summaries("", None, 10) == []
    assert (await store.claim(OWNER)).due == []


async def test_what_was_cancelled_where_it_waits_may_be_found_running(store: StateStore) -> None:
    """The owner began it before it heard."""
    await place(store, entry(1))
    await cancel(store)

    assert (await store.begin(OWNER, KEY, entry(1))).envelope == envelope(entry(1))

    with pytest.raises(CancelRecorded):
        await store.commit(OWNER, commit(entry(1), record()))
    with pytest.raises(CancelRecorded):
        await store.retry(OWNER, KEY, replace(begun(entry(1)), starts=0, failures=1), b"")
    await store.commit(OWNER, commit(entry(1), record(CANCELLED)))
    assert (await store.load(KEY)).inbox == []


async def test_what_waits_with_a_journal_cannot_be_settled_by_its_number_alone(store: StateStore) -> None:
    """As an owner would that took it for settled when the CANCEL was recorded."""
    await given_cancel(store, "during")

    with pytest.raises(VersionConflict):
        await store.commit(OWNER, commit(entry(1), None))
