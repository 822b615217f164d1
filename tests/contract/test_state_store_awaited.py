"""What every state store must do with a dead letter that was redriven: until its copy is settled the record is no end,
and nothing that the copy needs goes."""

from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    DONE,
    EXPIRED,
    KEY,
    NOW,
    OWNER,
    SKIPPED,
    attempt,
    cancel,
    commit,
    entry,
    place,
    record,
    seen,
)

from troupe.dataplane.state.port import Placed, StateStore
from troupe.dataplane.state.session import RECORD_KEPT
from troupe.v1.agent_pb2 import VERB_ANSWER_APPLIED, VERB_ANSWER_PENDING, VERB_ANSWER_TOO_LATE
from troupe.v1.turn_pb2 import Fate

MONTH = 30 * 24 * 3600.0
AGAIN = replace(entry(1, "m1", stream="again"), redriven=True)
SECOND = replace(entry(1, "m1", stream="second"), redriven=True)


async def died(store: StateStore, fate: Fate.ValueType = DEAD, *, journals: bool = True) -> None:
    if journals:
        await store.journal(OWNER, KEY, attempt(entry(1)), {"model": b"answer"}, starts=True)
    await store.commit(OWNER, commit(entry(1), record(fate)))


async def is_redriven(store: StateStore) -> bool:
    kept = await store.record(KEY, "m1")
    assert kept is not None
    return kept.redriven


@pytest.mark.parametrize("fate", [DEAD, EXPIRED], ids=Fate.Name)
async def test_from_its_redrive_on_a_dead_letter_is_no_end(store: StateStore, fate: Fate.ValueType) -> None:
    await died(store, fate)
    assert not await is_redriven(store)

    await store.redrive(KEY, "m1", AGAIN.number)

    assert await store.record(KEY, "m1") == replace(record(fate), redriven=True)


async def test_it_is_none_while_the_copy_waits_and_runs(store: StateStore) -> None:
    await died(store)
    await store.redrive(KEY, "m1", AGAIN.number)
    assert await store.put(OWNER, KEY, AGAIN, b"") is Placed.NEW
    assert await is_redriven(store)

    await store.begin(OWNER, KEY, AGAIN)
    assert await is_redriven(store)

    await store.retry(OWNER, KEY, replace(AGAIN, attempts=1, failures=1), b"")
    assert await is_redriven(store)


@pytest.mark.parametrize("fate", [DONE, CANCELLED, DEAD, EXPIRED], ids=Fate.Name)
async def test_the_end_of_the_copy_is_one(store: StateStore, fate: Fate.ValueType) -> None:
    await died(store)
    await store.redrive(KEY, "m1", AGAIN.number)
    await place(store, AGAIN)
    await store.begin(OWNER, KEY, AGAIN)

    await store.commit(OWNER, commit(AGAIN, record(fate, status=b"later")))

    assert await store.record(KEY, "m1") == record(fate, status=b"later")


async def test_a_copy_that_was_settled_before_anybody_was_told_is_not_awaited(store: StateStore) -> None:
    await died(store)
    await place(store, AGAIN)
    await store.commit(OWNER, commit(AGAIN, record(DEAD, status=b"again")))

    await store.redrive(KEY, "m1", AGAIN.number)

    assert await store.record(KEY, "m1") == record(DEAD, status=b"again")


async def test_a_copy_that_nobody_was_told_of_is_no_end_where_it_waits(store: StateStore) -> None:
    """Its redrive was cut off between the broker's confirm and the store's."""
    await died(store)
    await place(store, AGAIN)

    assert await is_redriven(store)


async def test_of_two_copies_the_last_to_come_ends_it(store: StateStore) -> None:
    await died(store)
    await store.redrive(KEY, "m1", AGAIN.number)
    await store.redrive(KEY, "m1", SECOND.number)
    await place(store, AGAIN)
    await store.commit(OWNER, commit(AGAIN, record(DEAD, status=b"again")))
    assert await is_redriven(store)

    await place(store, SECOND)
    await store.commit(OWNER, commit(SECOND, record(DEAD, status=b"second")))

    assert await store.record(KEY, "m1") == record(DEAD, status=b"second")


async def test_only_the_copy_itself_ends_the_waiting_for_it(store: StateStore) -> None:
    await died(store)
    await store.redrive(KEY, "m1", entry(2, stream="again").number)

    await store.commit(OWNER, commit(AGAIN, None))

    assert await is_redriven(store)


async def test_a_copy_of_what_waits_is_settled_and_the_other_goes_on(store: StateStore) -> None:
    await died(store)
    await place(store, AGAIN)
    await store.redrive(KEY, "m1", SECOND.number)
    assert await store.put(OWNER, KEY, SECOND, b"") is Placed.SKIPPED

    await store.commit(OWNER, commit(SECOND, None))

    assert await is_redriven(store)
    await store.purge(KEY, "m1")
    await store.forget(NOW + MONTH)
    assert await is_redriven(store)
    await store.commit(OWNER, commit(AGAIN, record(DEAD, status=b"again")))
    assert not await is_redriven(store)


@pytest.mark.parametrize("fate", [DONE, CANCELLED, SKIPPED, None], ids=lambda fate: fate and Fate.Name(fate))
async def test_only_a_dead_letter_comes_again(store: StateStore, fate: Fate.ValueType | None) -> None:
    if fate is not None:
        await died(store, fate)
    before = await seen(store, ids=("m1",))

    await store.redrive(KEY, "m1", AGAIN.number)

    assert await seen(store, ids=("m1",)) == before


# --- what the copy needs


@pytest.mark.parametrize("redriven_first", [True, False])
async def test_a_purge_leaves_the_journal_to_a_copy_on_its_way(store: StateStore, redriven_first: bool) -> None:
    """Another letter of the message was left; it is purged before or after the store hears of the redrive."""
    await died(store)
    if redriven_first:
        await store.redrive(KEY, "m1", AGAIN.number)
    await store.purge(KEY, "m1")
    if not redriven_first:
        await store.redrive(KEY, "m1", AGAIN.number)

    await store.forget(NOW + MONTH)

    assert await store.put(OWNER, KEY, AGAIN, b"") is Placed.NEW
    assert (await store.begin(OWNER, KEY, AGAIN)).journal == {"model": b"answer"}


async def test_a_purge_leaves_the_journal_to_a_copy_that_nobody_was_told_of(store: StateStore) -> None:
    await died(store)

    await store.purge(KEY, "m1")

    assert await store.put(OWNER, KEY, AGAIN, b"") is Placed.NEW
    assert (await store.begin(OWNER, KEY, AGAIN)).journal == {"model": b"answer"}
    await store.forget(NOW + MONTH)
    assert (await store.begin(OWNER, KEY, AGAIN)).journal == {"model": b"answer"}


async def test_what_was_purged_takes_its_journal_along(store: StateStore) -> None:
    await died(store)
    await store.redrive(KEY, "m1", AGAIN.number)
    await place(store, AGAIN)
    await store.commit(OWNER, commit(AGAIN, record(DEAD)))

    await store.purge(KEY, "m1")
    await store.forget(NOW + RECORD_KEPT + 1)

    assert await store.record(KEY, "m1") is None
    assert (await store.load(KEY)).journaled == set()


# --- cancelling


@pytest.mark.parametrize("journals", [True, False])
async def test_a_copy_on_its_way_can_be_cancelled(store: StateStore, journals: bool) -> None:
    await died(store, journals=journals)
    assert await store.control(KEY, cancel("m1", "early")) == VERB_ANSWER_TOO_LATE
    await store.redrive(KEY, "m1", AGAIN.number)

    answer = await store.control(KEY, cancel("m1", "v", b"v"))

    assert answer == (VERB_ANSWER_APPLIED if journals else VERB_ANSWER_PENDING)
    placed = await store.put(OWNER, KEY, AGAIN, b"")
    if journals:  # its turn settles it
        assert placed is Placed.NEW
        await store.commit(OWNER, commit(AGAIN, record(CANCELLED)))
    kept = await store.record(KEY, "m1")
    assert kept is not None
    assert (kept.fate, kept.redriven) == (CANCELLED, False)
