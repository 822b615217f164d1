"""What every state store must do with dead letters: the copy that is their next try, and what their purge leaves."""

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
    cancel,
    commit,
    entry,
    envelope,
    inbox,
    journal_of,
    place,
    record,
    seen,
)

from troupe.dataplane.state.port import Placed, StateStore
from troupe.dataplane.state.session import RECORD_KEPT
from troupe.v1.agent_pb2 import VERB_ANSWER_APPLIED
from troupe.v1.turn_pb2 import Fate

MONTH = 30 * 24 * 3600.0
AGAIN = replace(entry(1, "m1", stream="redriven"), redriven=True)


async def died(store: StateStore, fate: Fate.ValueType = DEAD) -> None:
    """Message m1 has journaled and ended."""
    await store.journal(OWNER, KEY, attempt(entry(1)), {"model": b"answer"}, starts=True)
    await store.commit(OWNER, commit(entry(1), record(fate)))


# --- redriven copies


@pytest.mark.parametrize("fate", [DEAD, EXPIRED], ids=Fate.Name)
async def test_the_redriven_copy_of_a_dead_letter_is_its_next_try(store: StateStore, fate: Fate.ValueType) -> None:
    await died(store, fate)
    assert (await store.load(KEY)).journaled == {"m1"}

    assert await store.put(OWNER, KEY, AGAIN, envelope(AGAIN)) is Placed.NEW

    assert await inbox(store) == [AGAIN]
    assert await store.waiting(KEY, "m1") == AGAIN
    begun = await store.begin(OWNER, KEY, AGAIN)
    assert (begun.envelope, begun.journal) == (envelope(AGAIN), {"model": b"answer"})


@pytest.mark.parametrize("fate", [DONE, CANCELLED, SKIPPED], ids=Fate.Name)
async def test_the_redriven_copy_of_what_ended_otherwise_is_a_copy(store: StateStore, fate: Fate.ValueType) -> None:
    await died(store, fate)

    assert await store.put(OWNER, KEY, AGAIN, b"") is Placed.SKIPPED


async def test_the_redriven_copy_of_what_nobody_knows_any_more_is_a_copy(store: StateStore) -> None:
    """Only what was settled otherwise since loses its record."""
    assert await store.put(OWNER, KEY, AGAIN, b"") is Placed.SKIPPED


async def test_a_skip_is_no_next_try(store: StateStore) -> None:
    await died(store)

    assert await store.put(OWNER, KEY, replace(AGAIN, skip=True), b"") is Placed.SKIPPED

    assert await store.record(KEY, "m1") == record(DEAD)


async def test_of_two_redriven_copies_one_is_the_next_try(store: StateStore) -> None:
    await died(store)
    await place(store, AGAIN)

    assert await store.put(OWNER, KEY, replace(entry(2, "m1"), redriven=True), b"") is Placed.SKIPPED


async def test_what_the_sender_repeats_is_a_copy_of_the_dead_letter(store: StateStore) -> None:
    await died(store)

    assert await store.put(OWNER, KEY, entry(2, "m1"), b"") is Placed.SKIPPED


async def test_a_redriven_message_stays_one_through_its_attempts(store: StateStore) -> None:
    await died(store)
    await place(store, AGAIN)
    await store.begin(OWNER, KEY, AGAIN)
    await store.retry(OWNER, KEY, replace(AGAIN, attempts=1, failures=1), b"")

    assert await inbox(store) == [replace(AGAIN, attempts=1, failures=1)]


@pytest.mark.parametrize("fate", [DONE, CANCELLED, DEAD, EXPIRED], ids=Fate.Name)
async def test_its_end_takes_the_place_of_the_dead_letters(store: StateStore, fate: Fate.ValueType) -> None:
    await died(store)
    await place(store, AGAIN)
    await store.begin(OWNER, KEY, AGAIN)

    await store.commit(OWNER, commit(AGAIN, record(fate, status=b"later")))

    assert await store.record(KEY, "m1") == record(fate, status=b"later")
    assert (await store.load(KEY)).journaled == ({"m1"} if fate in (DEAD, EXPIRED) else set())


async def test_a_cancel_of_what_was_redriven_is_loaded(store: StateStore) -> None:
    await died(store)
    await place(store, AGAIN)
    await store.begin(OWNER, KEY, AGAIN)

    assert await store.control(KEY, cancel("m1", "v1")) == VERB_ANSWER_APPLIED
    assert (await store.load(KEY)).verbs.cancelled == {"m1"}

    await store.commit(OWNER, commit(AGAIN, record(CANCELLED)))
    assert (await store.load(KEY)).verbs.cancelled == set()


# --- purging


@pytest.mark.parametrize("fate", [DEAD, EXPIRED], ids=Fate.Name)
async def test_a_purged_dead_letter_is_kept_no_longer_than_others(store: StateStore, fate: Fate.ValueType) -> None:
    await died(store, fate)

    await store.purge(KEY, "m1")

    await store.forget(NOW + RECORD_KEPT)
    assert await store.record(KEY, "m1") == record(fate)
    assert (await store.load(KEY)).journaled == {"m1"}
    await store.forget(NOW + RECORD_KEPT + 1)
    assert await store.record(KEY, "m1") is None
    assert (await store.load(KEY)).journaled == set()


@pytest.mark.parametrize("running", [True, False])
async def test_what_waits_again_is_not_purged(store: StateStore, running: bool) -> None:
    await died(store)
    await place(store, replace(AGAIN, running=MARK if running else None))
    before = await seen(store)

    await store.purge(KEY, "m1")

    assert await seen(store) == before
    await store.forget(NOW + MONTH)
    assert await store.record(KEY, "m1") == replace(record(DEAD), redriven=True)


@pytest.mark.parametrize("known", ["unknown", "runs", "done"])
async def test_only_a_dead_letter_is_purged(store: StateStore, known: str) -> None:
    if known == "runs":
        await store.journal(OWNER, KEY, attempt(entry(1)), {"model": b"answer"}, starts=True)
    if known == "done":
        await died(store, DONE)
    before = await seen(store, ids=("m1",))

    await store.purge(KEY, "m1")

    assert await seen(store, ids=("m1",)) == before


async def test_a_skip_that_waits_keeps_nothing_from_being_purged(store: StateStore) -> None:
    await died(store)
    await place(store, entry(2, "m1"))

    await store.purge(KEY, "m1")

    await store.forget(NOW + RECORD_KEPT + 1)
    assert await store.record(KEY, "m1") is None
    assert await journal_of(store, "m1") == {}


@pytest.mark.parametrize("placed", [True, False])
async def test_what_dies_again_after_its_purge_is_kept_again(store: StateStore, placed: bool) -> None:
    await died(store)
    await store.purge(KEY, "m1")
    if placed:
        await place(store, AGAIN)
    await store.commit(OWNER, commit(AGAIN, record(DEAD, status=b"again")))

    await store.forget(NOW + MONTH)

    assert await store.record(KEY, "m1") == record(DEAD, status=b"again")


async def test_what_failed_after_its_purge_is_kept_until_it_ends(store: StateStore) -> None:
    await died(store)
    await store.purge(KEY, "m1")

    await store.retry(OWNER, KEY, replace(AGAIN, attempts=1, failures=1), envelope(AGAIN))

    await store.forget(NOW + MONTH)
    assert await store.record(KEY, "m1") == replace(record(DEAD), redriven=True)
