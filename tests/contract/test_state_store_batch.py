"""What every state store must do with a turn that settles several messages in one commit: all of them, or none."""

from dataclasses import replace

import pytest
from support.state_stores import (
    DEAD,
    DONE,
    EXPIRED,
    KEY,
    MARK,
    OWNER,
    StoreTime,
    attempt,
    cancel,
    commit,
    entry,
    fail,
    inbox,
    pause,
    place,
    promise,
    record,
    reminder,
    seen,
    verb,
)

from troupe.broker.order import Position
from troupe.dataplane.state.errors import CancelRecorded, PauseRecorded, VersionConflict
from troupe.dataplane.state.port import Companion, StateStore, TurnCommit
from troupe.dataplane.state.session import Entry, begun
from troupe.v1 import agent_pb2, promise_pb2
from troupe.v1.turn_pb2 import Fate


def batch(first: Entry, *others: Entry, fate: Fate.ValueType = DONE) -> TurnCommit:
    companions = [
        Companion(other.number, other.message_id, other.attempts, record(fate, other.message_id)) for other in others
    ]
    return replace(commit(first, record(fate, first.message_id)), companions=companions)


async def begin(store: StateStore, *entries: Entry) -> None:
    await place(store, *entries)
    for each in entries:
        await store.begin(OWNER, KEY, each)


async def test_all_messages_of_a_batch_are_settled_in_one_commit(store: StateStore) -> None:
    other = entry(1, "m9", stream="other")
    await begin(store, entry(1), other, entry(2))
    await place(store, entry(3))

    assert await store.commit(OWNER, batch(entry(1), other, entry(2))) == 1

    loaded = await store.load(KEY)
    assert loaded.inbox == [entry(3)]
    assert loaded.positions == {"gateway": Position(2), "other": Position(1)}
    assert (loaded.version, loaded.state, loaded.history) == (1, b"state ada.1", [b"delta ada.1"])
    assert [await store.record(KEY, id_) for id_ in ("m1", "m2", "m9")] == [
        record(DONE, id_) for id_ in ("m1", "m2", "m9")
    ]
    assert loaded.journaled == set()
    assert (await store.backlog(0)).messages == 1


async def test_a_batch_that_is_committed_again_changes_nothing(store: StateStore) -> None:
    await begin(store, entry(1), entry(2))
    await store.commit(OWNER, batch(entry(1), entry(2)))
    before = await seen(store)

    assert await store.commit(OWNER, batch(entry(1), entry(2))) == 1
    assert await seen(store) == before


async def test_copies_of_all_become_skips_and_their_promises_go(store: StateStore) -> None:
    await begin(store, entry(1), entry(2))
    copy = entry(1, "m2", stream="other")
    await place(store, replace(copy, running=MARK))
    await store.take_over(OWNER, KEY, copy.number, MARK)
    made = [promise(message_id="m2")]
    await store.journal(OWNER, KEY, attempt(entry(2)), {}, starts=False, promises=made)

    await store.commit(OWNER, batch(entry(1), entry(2)))

    assert [(waits.number, waits.skip) for waits in await inbox(store)] == [(copy.number, True)]
    withdrawn = await store.promise(KEY, made[0].id)
    assert withdrawn is not None
    assert withdrawn.state == promise_pb2.PROMISE_STATE_WITHDRAWN


@pytest.mark.parametrize("whose", ["m1", "m2"])
@pytest.mark.parametrize("kind", ["cancel", "kill", "pause"])
async def test_a_verb_for_one_keeps_all_from_being_settled(store: StateStore, whose: str, kind: str) -> None:
    await begin(store, entry(1), entry(2))
    verbs = {"cancel": cancel(whose), "kill": verb(agent_pb2.VERB_KILL, whose), "pause": pause(whose)}
    await store.control(KEY, verbs[kind])
    before = await seen(store)

    with pytest.raises(PauseRecorded if kind == "pause" else CancelRecorded, match=whose) as refused:
        await store.commit(OWNER, batch(entry(1), entry(2)))

    assert await seen(store) == before
    if isinstance(refused.value, CancelRecorded):
        assert refused.value.kill == (kind == "kill")


@pytest.mark.parametrize(
    "how", ["never came", "settled", "ended", "another message", "failed", "skip", "twice", "copy", "live copy"]
)
async def test_a_companion_that_is_gone_keeps_all_from_being_settled(store: StateStore, how: str) -> None:
    await begin(store, entry(1))
    other = entry(2)
    match how:
        case "settled":
            await store.commit(OWNER, commit(entry(1, "x", stream="gone"), record()))
            other = entry(1, "x", stream="gone")
        case "ended":
            await store.commit(OWNER, commit(entry(1, "m2", stream="gone"), record()))
            await place(store, replace(entry(2), running=MARK, attempts=1))
            await store.take_over(OWNER, KEY, other.number, MARK)
        case "another message":
            await begin(store, entry(2))
            other = entry(2, "m9")
        case "failed":
            await place(store, entry(2))
            await fail(store, entry(2))
        case "skip":
            await place(store, replace(entry(2), skip=True))
        case "twice":
            other = entry(1)
        case "live copy":
            other = replace(entry(1, stream="other"), running=MARK, attempts=1)
            await place(store, other)
            await store.take_over(OWNER, KEY, other.number, MARK)
        case "copy":
            await begin(store, entry(1, stream="other"))
            other = entry(1, stream="other")
    version = (await store.load(KEY)).version
    before = await seen(store)

    with pytest.raises((VersionConflict, ValueError)):
        await store.commit(OWNER, replace(batch(entry(1), other), version=version))

    assert await seen(store) == before


async def test_a_companion_must_come_next_once_those_before_it_are_settled(store: StateStore) -> None:
    await begin(store, entry(1), entry(3))
    before = await seen(store)

    with pytest.raises(ValueError, match="3"):
        await store.commit(OWNER, batch(entry(1), entry(3)))
    assert await seen(store) == before

    await begin(store, entry(2))
    assert await store.commit(OWNER, batch(entry(1), entry(2), entry(3))) == 1


async def test_the_version_guards_a_batch(store: StateStore) -> None:
    await begin(store, entry(1), entry(2))
    before = await seen(store)

    with pytest.raises(VersionConflict):
        await store.commit(OWNER, replace(batch(entry(1), entry(2)), version=1))

    assert await seen(store) == before


@pytest.mark.parametrize("fate", [DEAD, EXPIRED], ids=Fate.Name)
async def test_only_done_settles_companions(store: StateStore, fate: Fate.ValueType) -> None:
    await begin(store, entry(1), entry(2))

    await store.commit(OWNER, batch(entry(1), entry(2), fate=fate))

    assert await inbox(store) == [begun(entry(2))]
    assert (await store.record(KEY, "m1"), await store.record(KEY, "m2")) == (record(fate, "m1"), None)


async def test_a_companion_in_a_later_attempt_is_settled_by_that(store: StateStore) -> None:
    await begin(store, entry(1), entry(2))
    again = replace(entry(2), attempts=1)
    await store.retry(OWNER, KEY, again, b"")
    await store.begin(OWNER, KEY, again)

    with pytest.raises(VersionConflict):
        await store.commit(OWNER, batch(entry(1), entry(2)))
    assert await store.commit(OWNER, batch(entry(1), again)) == 1


async def test_a_batch_of_occurrences_lets_their_reminders_go_on(store: StateStore, store_time: StoreTime) -> None:
    """What a turn settles beside its first message is settled in every respect."""
    await store.commit(OWNER, replace(commit(entry(1), record()), remind=[reminder(1_000.0, every=0.1)]))
    await store.due(OWNER)
    (first,) = await inbox(store)
    await store_time.pass_(0.15)
    assert (await store.due(OWNER)).sessions == []
    await begin(store, entry(2))
    await store.begin(OWNER, KEY, first)

    await store.commit(OWNER, replace(batch(entry(2), first), version=1))

    assert (await store.due(OWNER)).sessions == [KEY]
