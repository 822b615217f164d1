"""What every state store must do with what turns send, and how it counts what waits."""

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
    cancel,
    commit,
    entry,
    envelope,
    fail,
    given_session,
    number,
    outgoing,
    place,
    record,
    seen,
)

from troupe.broker.addressing import SessionKey
from troupe.dataplane.state.errors import VersionConflict
from troupe.dataplane.state.port import StateStore, TurnCommit
from troupe.dataplane.state.session import RECORD_KEPT, Backlog, Entry, Outgoing, Owner, Sent
from troupe.v1.turn_pb2 import Fate

MONTH = 30 * 24 * 3600.0
BOB, EVE = "default/default/clerk/bob", "default/default/clerk/eve"


def sending(message: Entry, *sent: Outgoing, version: int = 0, now: float = NOW) -> TurnCommit:
    return replace(commit(message, record(), version, now=now), outbox=sent)


# --- the outbox


async def test_what_turns_sent_waits_in_the_order_in_which_it_was_sent(store: StateStore) -> None:
    first, second = outgoing(2), outgoing(1, EVE, stream="to eve")
    third = outgoing(1)
    await store.commit(OWNER, sending(entry(1), first, second))
    await store.commit(OWNER, sending(entry(2), third, version=1, now=NOW + 60))

    loaded = await store.load(KEY)

    assert loaded.outbox == [first, second, third]
    assert loaded.sent == {BOB: Sent(number(1, "to bob"), NOW + 60), EVE: Sent(number(1, "to eve"), NOW)}


async def test_the_last_number_of_a_turn_counts_and_a_new_stream_takes_the_place_of_the_old(store: StateStore) -> None:
    await store.commit(OWNER, sending(entry(1), outgoing(1), outgoing(2)))
    assert (await store.load(KEY)).sent == {BOB: Sent(number(2, "to bob"), NOW)}

    await store.commit(OWNER, sending(entry(2), outgoing(1, stream="anew"), version=1))

    assert (await store.load(KEY)).sent == {BOB: Sent(number(1, "anew"), NOW)}


async def test_the_same_number_to_two_sessions_is_two_messages(store: StateStore) -> None:
    both = [outgoing(1), outgoing(1, EVE, stream="to eve")]
    await store.commit(OWNER, sending(entry(1), *both))

    await store.strike(OWNER, KEY, [number(1, "to eve")])

    assert (await store.load(KEY)).outbox == both[:1]


@pytest.mark.parametrize("fate", [DEAD, EXPIRED, CANCELLED, SKIPPED], ids=Fate.Name)
async def test_only_what_ends_done_sends(store: StateStore, fate: Fate.ValueType) -> None:
    await store.commit(OWNER, replace(sending(entry(1), outgoing(1)), record=record(fate)))

    loaded = await store.load(KEY)
    assert (loaded.outbox, loaded.sent) == ([], {})


async def test_a_refused_turn_sends_nothing_and_a_repeated_one_nothing_more(store: StateStore) -> None:
    with pytest.raises(VersionConflict):
        await store.commit(OWNER, sending(entry(1), outgoing(1), version=7))
    assert (await store.load(KEY)).outbox == []

    for _ in range(2):
        await store.commit(OWNER, sending(entry(1), outgoing(1)))
    assert (await store.load(KEY)).outbox == [outgoing(1)]


async def test_what_was_confirmed_goes_and_the_rest_keeps_its_order(store: StateStore) -> None:
    await store.commit(OWNER, sending(entry(1), *map(outgoing, (1, 2, 3, 4))))

    await store.strike(OWNER, KEY, [number(3, "to bob"), number(1, "to bob"), number(9, "never sent")])

    loaded = await store.load(KEY)
    assert loaded.outbox == [outgoing(2), outgoing(4)]
    assert loaded.sent == {BOB: Sent(number(4, "to bob"), NOW)}


async def test_what_was_struck_is_not_brought_back_by_a_late_commit(store: StateStore) -> None:
    await store.commit(OWNER, sending(entry(1), outgoing(1)))
    await store.strike(OWNER, KEY, [number(1, "to bob")])

    await store.commit(OWNER, sending(entry(1), outgoing(1)))

    assert (await store.load(KEY)).outbox == []


async def test_a_claim_finds_the_sessions_that_have_something_to_send(store: StateStore) -> None:
    await store.commit(OWNER, sending(entry(1), outgoing(1), outgoing(2)))
    await store.put(OWNER, KEY, entry(2), b"")
    await store.commit(
        Owner(1, 1, "worker-1.1"), replace(sending(entry(1), outgoing(1)), key=replace(KEY, session="x"))
    )

    assert (await store.claim(OWNER)).due == [KEY]
    await store.commit(OWNER, sending(entry(2), version=1))
    assert (await store.claim(OWNER)).due == [KEY]
    await store.strike(OWNER, KEY, [number(1, "to bob")])
    assert (await store.claim(OWNER)).due == [KEY]
    await store.strike(OWNER, KEY, [number(2, "to bob")])
    assert (await store.claim(OWNER)).due == []


async def test_a_deletion_keeps_what_was_sent(store: StateStore) -> None:
    await store.commit(OWNER, sending(entry(1), outgoing(1)))

    await store.delete(OWNER, KEY, {}, NOW)

    loaded = await store.load(KEY)
    assert (loaded.version, loaded.outbox) == (0, [outgoing(1)])
    assert loaded.sent == {BOB: Sent(number(1, "to bob"), NOW)}
    assert (await store.claim(OWNER)).due == [KEY]


async def test_a_session_with_something_to_send_is_not_idle(store: StateStore) -> None:
    await store.commit(OWNER, sending(entry(1), outgoing(1)))

    await store.forget(NOW + 2 * MONTH)
    assert (await store.load(KEY)).version == 1

    await store.strike(OWNER, KEY, [number(1, "to bob")])
    await store.forget(NOW + 2 * MONTH)
    assert (await store.load(KEY)).version == 0


async def test_a_stream_is_counted_on_for_a_day_and_while_anything_of_it_is_to_be_sent(store: StateStore) -> None:
    await store.commit(OWNER, sending(entry(1), outgoing(1), outgoing(1, EVE, stream="to eve")))
    await store.strike(OWNER, KEY, [number(1, "to eve")])
    both = (await store.load(KEY)).sent
    assert both.keys() == {BOB, EVE}

    await store.forget(NOW + RECORD_KEPT)
    assert (await store.load(KEY)).sent == both

    await store.forget(NOW + RECORD_KEPT + 1)
    assert (await store.load(KEY)).sent == {BOB: both[BOB]}


# --- what waits, counted


async def test_nothing_waits_where_nothing_came(store: StateStore) -> None:
    assert await store.backlog(0) == await store.session_backlog(KEY) == Backlog(0, 0)


async def test_all_that_waits_is_counted_by_session_and_by_shard(store: StateStore) -> None:
    other = replace(KEY, session="other")
    await store.put(OWNER, KEY, entry(1), b"12345")
    await store.put(OWNER, KEY, replace(entry(2), skip=True), b"1")
    await store.put(OWNER, KEY, replace(entry(3), running=MARK), b"123")
    await store.put(OWNER, other, entry(1), b"")
    await store.put(Owner(1, 1, "worker-1.1"), replace(KEY, session="foreign"), entry(1), b"12")

    assert await store.session_backlog(KEY) == Backlog(3, 9)
    assert await store.session_backlog(other) == Backlog(1, 0)
    assert await store.backlog(0) == Backlog(4, 9)
    assert await store.backlog(1) == Backlog(1, 2)


@pytest.mark.parametrize("fate", [DONE, DEAD, None])
async def test_what_is_settled_waits_no_more(store: StateStore, fate: Fate.ValueType | None) -> None:
    await store.put(OWNER, KEY, replace(entry(1), skip=fate is None), b"12345")
    await store.put(OWNER, KEY, entry(2), b"123")

    for _ in range(2):
        await store.commit(OWNER, commit(entry(1), None if fate is None else record(fate)))

    assert await store.session_backlog(KEY) == await store.backlog(0) == Backlog(1, 3)
    await store.commit(OWNER, commit(entry(2), record(DEAD)))
    assert await store.session_backlog(KEY) == await store.backlog(0) == Backlog(0, 0)


async def test_what_only_changes_how_it_waits_is_counted_once(store: StateStore) -> None:
    await place(store, entry(1), replace(entry(1, "a", stream="other"), running=MARK, attempts=1))
    waiting = Backlog(2, len(envelope(entry(1)) + envelope(entry(1, "a", stream="other"))))

    await place(store, entry(1))
    await fail(store, entry(1))
    await store.control(KEY, cancel("m1", "v1"))
    await store.take_over(OWNER, KEY, number(1, "other"), MARK)
    await store.delete(OWNER, KEY, {"a": record(CANCELLED)}, NOW)

    assert await store.session_backlog(KEY) == await store.backlog(0) == waiting


async def test_what_failed_on_the_fast_path_waits_from_then_on(store: StateStore) -> None:
    await store.retry(OWNER, KEY, replace(entry(1), attempts=1, failures=1), b"12345")

    assert await store.session_backlog(KEY) == await store.backlog(0) == Backlog(1, 5)


async def test_a_refused_script_counts_nothing(store: StateStore) -> None:
    await given_session(store)
    before, counted = await seen(store), await store.backlog(0)

    with pytest.raises(VersionConflict):
        await store.commit(OWNER, commit(entry(2), record(), version=9))

    assert (await seen(store), await store.backlog(0)) == (before, counted)


async def test_a_session_of_another_tenant_counts_for_itself(store: StateStore) -> None:
    acme = SessionKey("acme", *KEY.path.split("/")[1:])
    await store.put(OWNER, KEY, entry(1), b"1")

    assert await store.session_backlog(acme) == Backlog(0, 0)
