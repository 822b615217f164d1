"""What every state store must do with messages that wait: their order, their starts and retries."""

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
    attempt,
    commit,
    entry,
    envelope,
    fail,
    inbox,
    number,
    place,
    record,
    seen,
)

from troupe.broker.order import Position
from troupe.dataplane.state.port import Placed, StateStore
from troupe.dataplane.state.session import begun
from troupe.v1.turn_pb2 import Fate

# --- the inbox


async def test_messages_wait_in_the_order_in_which_they_were_placed(store: StateStore) -> None:
    await place(store, entry(2), entry(1, "a", stream="other"), entry(3), entry(1))

    assert [waiting.number for waiting in await inbox(store)] == [
        number(2),
        number(1, "other"),
        number(3),
        number(1),
    ]


async def test_what_runs_already_and_what_failed_stand_at_the_head(store: StateStore) -> None:
    await place(store, entry(1, "a", stream="other"), entry(1))
    first = await fail(store, entry(1))
    running = replace(entry(1, "long", stream="third"), running=MARK)

    assert await store.put(OWNER, KEY, running, b"") is Placed.NEW
    assert await inbox(store) == [running, first, entry(1, "a", stream="other")]

    again = await fail(store, entry(1, "a", stream="other"))
    assert await inbox(store) == [again, running, first]


async def test_a_number_that_waits_stays_as_it_is(store: StateStore) -> None:
    await place(store, entry(1), entry(2))
    before = await seen(store)

    assert await store.put(OWNER, KEY, replace(entry(1, "other id"), running=MARK), b"other") is Placed.PRESENT
    assert await seen(store, ids=()) == before


async def test_a_settled_number_is_not_placed(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))

    assert await store.put(OWNER, KEY, entry(1), b"") is Placed.SETTLED
    assert await inbox(store) == []


async def test_a_copy_of_what_waits_takes_its_place_as_a_skip(store: StateStore) -> None:
    await place(store, entry(1))
    copy = entry(1, "m1", stream="other")

    assert await store.put(OWNER, KEY, copy, b"") is Placed.SKIPPED
    assert await inbox(store) == [entry(1), replace(copy, skip=True)]
    assert await store.waiting(KEY, "m1") == entry(1)


@pytest.mark.parametrize("fate", [DONE, DEAD, EXPIRED, CANCELLED])
async def test_a_copy_of_what_was_settled_takes_its_place_as_a_skip(store: StateStore, fate: Fate.ValueType) -> None:
    await store.commit(OWNER, commit(entry(1), record(fate)))
    copy = entry(1, "m1", stream="other")

    assert await store.put(OWNER, KEY, copy, b"") is Placed.SKIPPED
    assert await store.waiting(KEY, "m1") is None


async def test_a_message_whose_number_was_skipped_is_no_copy_under_the_next(store: StateStore) -> None:
    """Its gateway gave the first number up and sent it again."""
    await store.put(OWNER, KEY, replace(entry(1, "m7"), skip=True), b"")

    assert await store.put(OWNER, KEY, entry(2, "m7"), b"") is Placed.NEW


async def test_a_skip_writes_no_record_and_settles_its_number_alone(store: StateStore) -> None:
    skip = replace(entry(1, "m7"), skip=True)
    assert await store.put(OWNER, KEY, skip, b"") is Placed.SKIPPED

    await store.commit(OWNER, commit(skip, None))

    loaded = await store.load(KEY)
    assert (loaded.version, loaded.inbox, loaded.recent) == (0, [], [])
    assert loaded.positions == {"gateway": Position(1)}
    # and the message itself may still come, under another number
    assert await store.put(OWNER, KEY, entry(2, "m7"), b"") is Placed.NEW


async def test_what_is_waiting_is_the_foremost_of_several(store: StateStore) -> None:
    """A message runs, a copy of it is placed, and then the message is written down, because it takes long."""
    copy, original = entry(1, "m1", stream="a"), replace(entry(1, "m1", stream="z"), running=MARK)
    await place(store, copy, original)

    assert await store.waiting(KEY, "m1") == original


# --- starts and retries


async def test_a_start_is_counted_and_gets_envelope_and_journal(store: StateStore) -> None:
    await place(store, entry(1))
    await store.journal(OWNER, KEY, attempt(entry(1)), {"model": b"answer"}, starts=False)

    found = await store.begin(OWNER, KEY, entry(1))

    assert (found.envelope, found.journal) == (envelope(entry(1)), {"model": b"answer"})
    assert await inbox(store) == [begun(entry(1))]


async def test_starts_add_up_and_a_mark_ends_with_the_next_start(store: StateStore) -> None:
    running = replace(entry(1), running=MARK)
    await place(store, running)

    await store.begin(OWNER, KEY, running)
    await store.begin(OWNER, KEY, begun(running))

    assert await inbox(store) == [replace(entry(1), starts=2, attempts=2)]


async def test_a_start_that_comes_late_is_not_counted(store: StateStore) -> None:
    await place(store, entry(1))
    failed = await fail(store, entry(1))

    await store.begin(OWNER, KEY, entry(1))

    assert await inbox(store) == [failed]


async def test_only_what_waits_can_begin(store: StateStore) -> None:
    with pytest.raises(KeyError):
        await store.begin(OWNER, KEY, entry(1))
    await place(store, entry(1))
    await store.commit(OWNER, commit(entry(1), record()))
    with pytest.raises(KeyError):
        await store.begin(OWNER, KEY, entry(1))


async def test_a_failed_message_waits_at_the_head_as_told(store: StateStore) -> None:
    await place(store, entry(1), entry(2))

    failed = await fail(store, entry(1), not_before=NOW + 9)

    assert failed == replace(entry(1), attempts=1, failures=1, not_before=NOW + 9, first_failed=NOW)
    assert await inbox(store) == [failed, entry(2)]


async def test_a_message_that_failed_on_the_fast_path_enters_the_inbox(store: StateStore) -> None:
    failed = replace(entry(1), attempts=1, failures=1)

    await store.retry(OWNER, KEY, failed, b"envelope")

    assert (await store.begin(OWNER, KEY, failed)).envelope == b"envelope"


async def test_a_retry_leaves_the_envelope_that_waits(store: StateStore) -> None:
    await place(store, entry(1))
    await store.begin(OWNER, KEY, entry(1))

    await store.retry(OWNER, KEY, replace(entry(1), attempts=1, failures=1), b"")

    assert (await store.begin(OWNER, KEY, entry(1))).envelope == envelope(entry(1))


async def test_a_retry_stands_as_it_says_whatever_waited_under_its_number(store: StateStore) -> None:
    await place(store, entry(1, "another"), entry(2))
    failed = replace(entry(1), attempts=1, failures=1, placed=NOW + 1, redriven=True)

    await store.retry(OWNER, KEY, failed, b"")

    assert await inbox(store) == [failed, entry(2)]
    assert await store.waiting(KEY, "m1") == failed


async def test_a_mark_ends_with_the_attempt(store: StateStore) -> None:
    running = replace(entry(1), running=MARK, attempts=1)
    await place(store, running)

    await store.retry(OWNER, KEY, replace(running, failures=1), b"")

    assert await inbox(store) == [replace(running, running=None, failures=1)]


async def test_a_retry_that_comes_late_changes_nothing(store: StateStore) -> None:
    # Given an attempt that failed, and the next one, which has begun and stands behind another
    await place(store, entry(1), entry(1, "a", stream="other"))
    failed = await fail(store, entry(1))
    await store.begin(OWNER, KEY, failed)
    await fail(store, entry(1, "a", stream="other"))
    before = await seen(store)

    await store.retry(OWNER, KEY, failed, b"")

    assert await seen(store) == before


async def test_a_retry_that_comes_twice_does_not_overtake(store: StateStore) -> None:
    await place(store, entry(1))
    failed = await fail(store, entry(1))
    running = replace(entry(1, "long", stream="other"), running=MARK)
    await place(store, running)

    await store.retry(OWNER, KEY, failed, b"")

    assert await inbox(store) == [running, failed]


async def test_a_retry_of_a_settled_number_changes_nothing(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))

    await store.retry(OWNER, KEY, replace(entry(1), attempts=1, failures=1), b"")

    assert await inbox(store) == []


async def test_a_retry_does_not_bring_back_what_was_settled_where_it_waits(store: StateStore) -> None:
    # Given a message that runs, and a copy of it that waits and is settled together with the first
    await place(store, entry(1, "m1", stream="other"))
    await store.commit(OWNER, commit(entry(1), record()))
    before = await seen(store)

    await store.retry(OWNER, KEY, replace(entry(1, "m1", stream="other"), attempts=1, failures=1), b"")

    assert await seen(store) == before
