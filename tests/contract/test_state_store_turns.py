"""What every state store must do for turns: the journal, the commit, the order of numbers."""

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
    given_session,
    inbox,
    journal_of,
    number,
    pause,
    place,
    promise,
    record,
    seen,
)

from troupe.broker.order import Position
from troupe.dataplane.state.errors import CancelRecorded, VersionConflict
from troupe.dataplane.state.port import Placed, StateStore
from troupe.dataplane.state.session import Verbs
from troupe.v1.turn_pb2 import Fate

# --- the journal


async def test_a_journaled_step_stays_as_it_was_first_written(store: StateStore) -> None:
    await place(store, entry(1))
    await store.journal(OWNER, KEY, attempt(entry(1)), {"a": b"1"}, starts=False)
    await store.journal(OWNER, KEY, attempt(entry(1)), {"a": b"2", "b": b"2"}, starts=True)

    assert (await store.begin(OWNER, KEY, entry(1))).journal == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("fate", [DONE, CANCELLED])
async def test_the_journal_goes_when_the_message_is_settled(store: StateStore, fate: Fate.ValueType) -> None:
    await store.journal(OWNER, KEY, attempt(entry(1)), {"a": b"1"}, starts=False)
    await store.commit(OWNER, commit(entry(1), record(fate)))
    # When a write of the turn comes late
    await store.journal(OWNER, KEY, attempt(entry(1)), {"b": b"2"}, starts=False)

    assert await journal_of(store, "m1") == {}


@pytest.mark.parametrize("fate", [DEAD, EXPIRED])
async def test_the_journal_stays_with_a_dead_letter_until_that_is_settled(
    store: StateStore, fate: Fate.ValueType
) -> None:
    await store.journal(OWNER, KEY, attempt(entry(1)), {"a": b"1"}, starts=False)
    await store.commit(OWNER, commit(entry(1), record(fate)))
    assert await journal_of(store, "m1") == {"a": b"1"}

    await store.commit(OWNER, commit(entry(2, "m1"), record(DONE)))
    assert await journal_of(store, "m1") == {}


async def test_what_does_not_replace_a_dead_letter_leaves_what_its_next_try_needs(store: StateStore) -> None:
    made = promise()
    await store.journal(OWNER, KEY, attempt(entry(1)), {"a": b"1"}, starts=False, promises=[made])
    await store.commit(OWNER, commit(entry(1), record(DEAD)))
    await store.redrive(KEY, "m1", number(1, "redriven"))
    await store.control(KEY, pause())

    await store.commit(OWNER, commit(entry(2, "m1"), record(SKIPPED)))

    assert await store.promise(KEY, made.id) == made
    assert await store.verbs(KEY) == Verbs(paused={"m1"})
    assert await journal_of(store, "m1") == {"a": b"1"}


@pytest.mark.parametrize("fate", [DONE, CANCELLED, SKIPPED], ids=Fate.Name)
async def test_nothing_is_journaled_for_what_was_settled_under_another_number(
    store: StateStore, fate: Fate.ValueType
) -> None:
    await store.commit(OWNER, commit(entry(1), record(fate)))
    before = await seen(store)
    copy = attempt(entry(1, "m1", stream="other"))

    await store.journal(OWNER, KEY, copy, {"a": b"1"}, starts=False)
    with pytest.raises(CancelRecorded if fate == CANCELLED else VersionConflict):
        await store.journal(OWNER, KEY, copy, {"a": b"1"}, starts=True)

    assert await seen(store) == before


async def test_what_one_payload_did_is_nothing_to_another_under_the_same_id(store: StateStore) -> None:
    # Given a message whose turn, on the fast path, journaled before its worker was killed
    mine, other = entry(1), replace(entry(3), message_id="m1")
    await store.journal(OWNER, KEY, attempt(mine), {"model": b"my answer"}, starts=True)

    # When another payload under its id is the first to be delivered afterwards, and then the message itself
    assert await store.put(OWNER, KEY, other, b"other") is Placed.NEW
    assert await store.put(OWNER, KEY, mine, b"mine") is Placed.SKIPPED

    # Then that starts with nothing, and keeps what it does for itself
    assert (await store.begin(OWNER, KEY, other)).journal == {}
    await store.journal(OWNER, KEY, attempt(other), {"model": b"other answer"}, starts=True)
    assert (await store.begin(OWNER, KEY, replace(other, attempts=-1))).journal == {"model": b"other answer"}
    assert (await store.begin(OWNER, KEY, replace(mine, attempts=-1))).journal == {"model": b"my answer"}

    # and all of it goes with the id's end
    await store.commit(OWNER, commit(mine, None))
    await store.pass_over(OWNER, KEY, number(2), 1, NOW)
    await store.commit(OWNER, commit(other, record()))
    assert (await store.load(KEY)).journaled == set()


# --- the commit


async def test_a_commit_changes_everything_at_once(store: StateStore) -> None:
    await place(store, entry(1), entry(2), entry(1, "m1", stream="other"))
    await store.journal(OWNER, KEY, attempt(entry(1)), {"a": b"1"}, starts=False)

    version = await store.commit(OWNER, commit(entry(1), record(message_id="m1"), now=NOW + 3))

    loaded, summary = await store.load(KEY), await store.summary(KEY)
    assert (version, loaded.version, loaded.state, loaded.history) == (1, 1, b"state ada.1", [b"delta ada.1"])
    assert loaded.positions == {"gateway": Position(1)}
    assert loaded.inbox == [entry(2), replace(entry(1, "m1", stream="other"), skip=True)]
    assert loaded.recent == ["m1"]
    assert await store.record(KEY, "m1") == record(message_id="m1")
    assert await journal_of(store, "m1") == {}
    assert summary is not None
    assert (summary.version, summary.turns, summary.waiting, summary.usage) == (1, 1, 1, b"usage ada.1")
    assert (summary.created, summary.updated) == (NOW + 3, NOW + 3)


async def test_what_a_turn_leaves_out_stays(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))

    await store.commit(
        OWNER, replace(commit(entry(2), record(), 1), state=None, history=None, usage=None, now=NOW + 60)
    )

    loaded, summary = await store.load(KEY), await store.summary(KEY)
    assert (loaded.version, loaded.state, loaded.history) == (2, b"state ada.1", [b"delta ada.1"])
    assert summary is not None
    assert (summary.turns, summary.usage, summary.created, summary.updated) == (2, b"usage ada.1", NOW, NOW + 60)


async def test_an_empty_state_is_a_state(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    await store.commit(OWNER, replace(commit(entry(2), record(), 1), state=b"", history=b""))

    loaded = await store.load(KEY)
    assert (loaded.state, loaded.history) == (b"", [b"delta ada.1", b""])


@pytest.mark.parametrize("fate", [DEAD, EXPIRED, CANCELLED, SKIPPED])
async def test_only_done_changes_the_state(store: StateStore, fate: Fate.ValueType) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    before = await store.summary(KEY)

    assert await store.commit(OWNER, commit(entry(2), record(fate), 1, now=NOW + 60)) == 1

    loaded = await store.load(KEY)
    assert (loaded.state, loaded.history) == (b"state ada.1", [b"delta ada.1"])
    assert (loaded.positions, await store.record(KEY, "m2")) == ({"gateway": Position(2)}, record(fate))
    assert await store.summary(KEY) == before


async def test_a_turn_that_read_another_version_is_refused(store: StateStore) -> None:
    await given_session(store)
    before = await seen(store)

    for version in (0, 2):
        with pytest.raises(VersionConflict):
            await store.commit(OWNER, commit(entry(2), record(), version))

    assert await seen(store) == before


async def test_an_end_without_result_does_not_look_at_the_version(store: StateStore) -> None:
    await given_session(store)

    assert await store.commit(OWNER, commit(entry(2), record(DEAD), version=0)) == 1


async def test_a_commit_out_of_order_is_refused(store: StateStore) -> None:
    await given_session(store)
    before = await seen(store)

    with pytest.raises(ValueError):
        await store.commit(OWNER, commit(entry(3), record(), version=1))

    assert await seen(store) == before


async def test_a_settled_number_is_never_settled_again(store: StateStore) -> None:
    await given_session(store)
    before = await seen(store)

    for fate in (DONE, DEAD, CANCELLED):
        assert await store.commit(OWNER, commit(entry(1, "another"), record(fate), version=99)) == 1

    assert await seen(store) == before


async def test_a_message_is_done_once_whatever_its_number(store: StateStore) -> None:
    await given_session(store)
    copy = entry(1, "m1", stream="other")
    before = await seen(store)

    with pytest.raises(VersionConflict):
        await store.commit(OWNER, commit(copy, record(), version=1))
    assert await seen(store) == before

    await store.commit(OWNER, commit(copy, None))
    assert (await store.load(KEY)).positions["other"] == Position(1)


@pytest.mark.parametrize("later", [DONE, DEAD, EXPIRED, CANCELLED, SKIPPED], ids=Fate.Name)
@pytest.mark.parametrize("first", [DONE, DEAD, EXPIRED, CANCELLED, SKIPPED], ids=Fate.Name)
async def test_a_record_is_final_but_a_dead_letters(
    store: StateStore, first: Fate.ValueType, later: Fate.ValueType
) -> None:
    await store.commit(OWNER, commit(entry(1), record(first)))

    refused = False
    try:
        await store.commit(OWNER, commit(entry(2, "m1"), record(later, status=b"later"), int(first == DONE)))
    except Exception:
        refused = True

    replaced = first in (DEAD, EXPIRED) and later in (DONE, DEAD, EXPIRED, CANCELLED)
    assert await store.record(KEY, "m1") == (record(later, status=b"later") if replaced else record(first))
    # A result is never thrown away in silence, nor anything but a cancellation after a cancellation.
    assert refused == (not replaced and (later == DONE or (first == CANCELLED and later != CANCELLED)))


async def test_a_message_that_waits_is_not_settled_by_its_number_alone(store: StateStore) -> None:
    await place(store, entry(1))
    before = await seen(store)

    with pytest.raises(VersionConflict):
        await store.commit(OWNER, commit(entry(1), None))

    assert await seen(store) == before


async def test_what_was_settled_under_another_number_while_it_ran_is_settled_by_its_number_alone(
    store: StateStore,
) -> None:
    await store.commit(OWNER, commit(entry(1, "m1", stream="other"), record()))
    await place(store, replace(entry(1), running=MARK, attempts=1))
    assert not (await inbox(store))[0].skip

    await store.commit(OWNER, commit(entry(1), None))

    assert await inbox(store) == []
    assert await store.record(KEY, "m1") == record()


@pytest.mark.parametrize("fate", [DONE, DEAD], ids=Fate.Name)
@pytest.mark.parametrize("stands", ["nowhere", "under its mark", "another"])
async def test_copies_that_wait_become_skips_whatever_ended_the_message(
    store: StateStore, stands: str, fate: Fate.ValueType
) -> None:
    """Both came in while nothing was known of either. What `stands` under the number goes."""
    running, copy = entry(1), entry(1, "m1", stream="other")
    await place(store, copy)
    if stands == "under its mark":
        await place(store, replace(running, running=MARK, attempts=1))
    elif stands == "another":
        await place(store, replace(entry(1, "another"), running=MARK, attempts=1))

    await store.commit(OWNER, commit(running, record(fate)))

    assert await inbox(store) == [replace(copy, skip=True)]


# --- gaps


async def test_a_gap_is_passed_over_and_filled_late_once(store: StateStore) -> None:
    await place(store, entry(3))
    for missing in (1, 2):
        assert await store.pass_over(OWNER, KEY, number(missing), 1, NOW)
    assert (await store.load(KEY)).positions == {"gateway": Position(2, frozenset({1, 2}))}

    # When one of them comes after all
    assert await store.put(OWNER, KEY, entry(2), b"") is Placed.NEW
    await store.commit(OWNER, commit(entry(2), record()))

    assert (await store.load(KEY)).positions == {"gateway": Position(2, frozenset({1}))}
    assert await store.put(OWNER, KEY, entry(2), b"") is Placed.SETTLED
    assert await store.commit(OWNER, commit(entry(3), record(), 1)) == 2
    assert (await store.load(KEY)).positions == {"gateway": Position(3, frozenset({1}))}


@pytest.mark.parametrize("sequence", [1, 2, 4], ids=["settled", "waits", "not next"])
async def test_only_the_next_number_can_be_passed_over_and_only_when_it_is_missing(
    store: StateStore, sequence: int
) -> None:
    await given_session(store)
    before = await seen(store)

    assert not await store.pass_over(OWNER, KEY, number(sequence), 1, NOW)

    assert await seen(store) == before


async def test_a_run_of_missing_numbers_is_passed_over_at_once(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    await place(store, entry(5))

    assert await store.pass_over(OWNER, KEY, number(2), 3, NOW)

    assert (await store.load(KEY)).positions == {"gateway": Position(4, frozenset({2, 3, 4}))}
    await store.commit(OWNER, commit(entry(5), record(DEAD)))
    await store.commit(OWNER, commit(entry(3), record(DEAD)))
    assert (await store.load(KEY)).positions == {"gateway": Position(5, frozenset({2, 4}))}


@pytest.mark.parametrize(
    ("first", "count"),
    [(2, 4), (2, 9), (1, 1), (3, 2), (2, 0), (2, -1)],
    ids=["its last waits", "one in it waits", "settled", "not next", "none", "less than none"],
)
async def test_a_run_is_passed_over_only_as_a_whole(store: StateStore, first: int, count: int) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    await place(store, entry(5), entry(2, "a", stream="other"))
    before = await seen(store)

    assert not await store.pass_over(OWNER, KEY, number(first), count, NOW)

    assert await seen(store) == before


async def test_a_run_is_passed_over_once(store: StateStore) -> None:
    assert await store.pass_over(OWNER, KEY, number(1), 2, NOW)
    assert not await store.pass_over(OWNER, KEY, number(1), 2, NOW)

    assert (await store.load(KEY)).positions == {"gateway": Position(2, frozenset({1, 2}))}
