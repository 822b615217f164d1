"""What every state store must do with reminders."""

from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    DONE,
    KEY,
    NOW,
    OWNER,
    SOON,
    StoreTime,
    commit,
    entry,
    inbox,
    number,
    record,
    remind,
    reminder,
)

from troupe.broker.order import Position
from troupe.dataplane.state.port import Due, StateStore
from troupe.dataplane.state.session import RECORD_KEPT, Entry
from troupe.v1.turn_pb2 import Fate


async def test_a_reminder_comes_when_it_is_due_and_once(store: StateStore, store_time: StoreTime) -> None:
    tea = reminder(store_time.now() + SOON)
    await remind(store, tea)
    summary = await store.summary(KEY)
    assert summary is not None
    assert summary.scheduled == 1
    assert (await store.due(OWNER)).sessions == []
    await store_time.pass_(SOON * 1.25)

    assert await store.due(OWNER) == Due([KEY], None)

    expected = Entry(number(1, tea.stream), f"{tea.stream}/1", tea.digest, placed=tea.due)
    assert await inbox(store) == [expected]
    assert (await store.begin(OWNER, KEY, expected)).envelope == tea.envelope
    await store.commit(OWNER, commit(expected, record(), 1))
    assert await store.due(OWNER) == Due([], None)


async def test_a_reminder_comes_again_and_again(store: StateStore, store_time: StoreTime) -> None:
    tea = reminder(store_time.now() + SOON, every=3600)
    await remind(store, tea)
    await store_time.pass_(SOON * 1.25)

    due = await store.due(OWNER)

    assert due.following is not None
    assert 3590 < due.following < 3600
    expected = (await inbox(store))[0]
    await store.commit(OWNER, commit(expected, record(DEAD), 1))
    assert (await store.due(OWNER)).sessions == []
    assert (await store.load(KEY)).positions[tea.stream] == Position(1)


async def test_what_was_missed_is_made_up_for_once(store: StateStore, store_time: StoreTime) -> None:
    """As by a shard that nobody owned."""
    started = store_time.now() - 1000
    await remind(store, reminder(started, every=300))

    due = await store.due(OWNER)

    assert [waits.placed for waits in await inbox(store)] == [started + 900]
    assert due.sessions == [KEY]
    assert due.following is not None
    assert 150 < due.following <= 200


async def test_no_other_comes_while_one_waits(store: StateStore, store_time: StoreTime) -> None:
    tea = reminder(store_time.now() + SOON, every=SOON)
    await remind(store, tea)
    await store_time.pass_(SOON * 1.25)
    assert (await store.due(OWNER)).sessions == [KEY]
    first = (await inbox(store))[0]
    await store_time.pass_(SOON * 3)

    # Held, it is not due again and again
    assert await store.due(OWNER) == Due([], None)
    assert await store.due(OWNER) == Due([], None)
    assert await inbox(store) == [first]

    # but made up for once when the first is settled
    await store.commit(OWNER, commit(first, record(), 1))
    assert (await store.due(OWNER)).sessions == [KEY]
    second = (await inbox(store))[0]
    assert (second.number, second.message_id) == (number(2, tea.stream), f"{tea.stream}/2")
    assert second.placed > first.placed + 2 * SOON
    assert (await store.due(OWNER)).sessions == []


async def test_a_reminder_takes_the_place_of_the_one_with_its_name(store: StateStore, store_time: StoreTime) -> None:
    await remind(store, reminder(store_time.now() - 1), reminder(store_time.now() - 2, "walk"))
    await remind(store, reminder(store_time.now() + 3600, id_="2"), sequence=2)

    assert (await store.due(OWNER)).sessions == [KEY]
    assert [waits.number.stream for waits in await inbox(store)] == ["reminder/walk/1"]


async def test_a_reminder_that_was_forgotten_does_not_come(store: StateStore, store_time: StoreTime) -> None:
    await remind(store, reminder(store_time.now() - 1), reminder(store_time.now() - 2, "walk"))
    await remind(store, sequence=2, forget=("tea", "never set"))

    await store.due(OWNER)

    assert [waits.number.stream for waits in await inbox(store)] == ["reminder/walk/1"]


@pytest.mark.parametrize("fate", [DEAD, CANCELLED], ids=Fate.Name)
async def test_only_a_turn_that_is_done_changes_reminders(
    store: StateStore, store_time: StoreTime, fate: Fate.ValueType
) -> None:
    await remind(store, reminder(store_time.now() - 1))
    turn = commit(entry(2, stream="setter"), record(fate), 1)
    await store.commit(OWNER, replace(turn, remind=[reminder(NOW, "walk")], forget_reminders=["tea"]))

    await store.due(OWNER)

    assert [waits.number.stream for waits in await inbox(store)] == ["reminder/tea/1"]


async def test_a_deleted_session_is_reminded_of_nothing(store: StateStore, store_time: StoreTime) -> None:
    await remind(store, reminder(store_time.now() - 1))

    await store.delete(OWNER, KEY, {}, NOW)

    assert await store.due(OWNER) == Due([], None)


async def test_a_reminder_counts_on_though_its_stream_is_silent(store: StateStore, store_time: StoreTime) -> None:
    tea = reminder(store_time.now() - 1, every=30 * 24 * 3600.0)
    await remind(store, tea)
    await store.due(OWNER)
    await store.commit(OWNER, commit((await inbox(store))[0], record(DONE), 1))

    await store.forget(max(NOW, store_time.now()) + RECORD_KEPT + 1)

    assert (await store.load(KEY)).positions == {tea.stream: Position(1)}
