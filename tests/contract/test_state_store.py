"""What every state store must do for turns: the fence, the inbox and its order, the journal, the commit."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    STORES,
    commit,
    entry,
    envelope,
    number,
    record,
    seen,
)

from troupe.broker.order import Position
from troupe.dataplane.state.port import (
    Entry,
    Fenced,
    Owner,
    Placed,
    StateStore,
    VersionConflict,
    begun,
)
from troupe.v1.turn_pb2 import Fate


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened


async def place(store: StateStore, *entries: Entry) -> None:
    for placing in entries:
        await store.put(OWNER, KEY, placing, envelope(placing))


async def inbox(store: StateStore) -> Sequence[Entry]:
    return (await store.load(KEY)).inbox


async def fail(store: StateStore, failed: Entry, *, not_before: float = NOW + 1) -> Entry:
    """One attempt of a waiting message, to its failure."""
    await store.begin(OWNER, KEY, failed)
    again = replace(begun(failed), starts=0, failures=failed.failures + 1, not_before=not_before, first_failed=NOW)
    await store.retry(OWNER, KEY, again, envelope(failed))
    return again


# Every script of an owner, on a session of which message 1 is DONE, 2 has begun, and 3 and 4 wait.
Script = Callable[[StateStore, Owner], Awaitable[Any]]
SCRIPTS: dict[str, Script] = {
    "claim": lambda store, owner: store.claim(owner),
    "put": lambda store, owner: store.put(owner, KEY, entry(5), b"new"),
    "put a running message": lambda store, owner: store.put(owner, KEY, replace(entry(5), running=True), b"new"),
    "put a copy": lambda store, owner: store.put(owner, KEY, entry(1, "m3", stream="other"), b"new"),
    "begin": lambda store, owner: store.begin(owner, KEY, entry(3)),
    "journal": lambda store, owner: store.journal(owner, KEY, "m2", {"b": b"2"}, starts=True),
    "retry": lambda store, owner: store.retry(owner, KEY, replace(begun(entry(2)), starts=0, failures=1), b"again"),
    "retry of what never waited": lambda store, owner: store.retry(
        owner, KEY, replace(entry(1, "mx", stream="other"), attempts=1, failures=1), b"again"
    ),
    "commit DONE": lambda store, owner: store.commit(owner, commit(entry(2), record(), version=1)),
    "commit DEAD": lambda store, owner: store.commit(owner, commit(entry(2), record(DEAD))),
    "commit CANCELLED": lambda store, owner: store.commit(owner, commit(entry(2), record(CANCELLED))),
    "commit of a number alone": lambda store, owner: store.commit(owner, commit(entry(1, "m1", stream="other"), None)),
    "pass over": lambda store, owner: store.pass_over(owner, KEY, number(1, "silent"), NOW),
    "delete": lambda store, owner: store.delete(owner, KEY, {"m2": record(CANCELLED), "m3": record(CANCELLED)}, NOW),
}


async def given_session(store: StateStore) -> None:
    await store.claim(OWNER)
    await store.commit(OWNER, commit(entry(1), record()))
    await place(store, entry(2), entry(3), entry(4))
    await store.begin(OWNER, KEY, entry(2))
    await store.journal(OWNER, KEY, "m2", {"a": b"1"}, starts=True)


# --- the fence


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "stranger", [replace(OWNER, epoch=4), replace(OWNER, instance="worker-2.1")], ids=["lower epoch", "other instance"]
)
async def test_what_the_owner_did_not_send_is_refused_and_changes_nothing(
    store: StateStore, script: str, stranger: Owner
) -> None:
    await given_session(store)
    before = await seen(store)

    with pytest.raises(Fenced) as refusal:
        await SCRIPTS[script](store, stranger)

    assert refusal.value.epoch == OWNER.epoch
    assert await seen(store) == before


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_higher_epoch_raises_the_fence_with_whatever_script_it_comes(store: StateStore, script: str) -> None:
    await given_session(store)

    await SCRIPTS[script](store, replace(OWNER, epoch=6, instance="worker-2.1"))

    with pytest.raises(Fenced) as refusal:
        await store.claim(OWNER)
    assert refusal.value.epoch == 6


async def test_a_refused_script_of_a_higher_epoch_changes_nothing_either(store: StateStore) -> None:
    await given_session(store)
    before = await seen(store)

    with pytest.raises(VersionConflict):
        await store.commit(replace(OWNER, epoch=6), commit(entry(2), record(), version=7))

    assert await seen(store) == before


async def test_the_first_script_on_a_shard_needs_no_claim(store: StateStore) -> None:
    await store.put(OWNER, KEY, entry(1), b"")

    with pytest.raises(Fenced):
        await store.claim(replace(OWNER, epoch=4))


async def test_each_shard_has_a_fence_of_its_own(store: StateStore) -> None:
    await store.claim(OWNER)

    assert await store.claim(Owner(shard=1, epoch=1, instance="worker-2.1")) == []


async def test_a_claim_finds_the_sessions_that_have_something_in_the_inbox(store: StateStore) -> None:
    # Given one session with a message, one with nothing left, one of another shard
    idle, foreign = replace(KEY, session="idle"), replace(KEY, session="foreign")
    await given_session(store)
    await store.put(OWNER, idle, entry(1), b"")
    await store.commit(OWNER, commit(entry(1), record(), key=idle))
    await store.put(Owner(1, 1, "worker-1.1"), foreign, entry(1), b"")

    assert await store.claim(replace(OWNER, epoch=6)) == [KEY]


# --- repetition


@pytest.mark.parametrize("script", SCRIPTS)
async def test_repeating_a_script_changes_nothing_more(store: StateStore, script: str) -> None:
    await given_session(store)
    await SCRIPTS[script](store, OWNER)
    once = await seen(store)

    await SCRIPTS[script](store, OWNER)

    assert await seen(store) == once


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
    running = replace(entry(1, "long", stream="third"), running=True)

    assert await store.put(OWNER, KEY, running, b"") is Placed.NEW
    assert await inbox(store) == [running, first, entry(1, "a", stream="other")]

    again = await fail(store, entry(1, "a", stream="other"))
    assert await inbox(store) == [again, running, first]


async def test_a_number_that_waits_stays_as_it_is(store: StateStore) -> None:
    await place(store, entry(1), entry(2))
    before = await seen(store)

    assert await store.put(OWNER, KEY, replace(entry(1, "other id"), running=True), b"other") is Placed.PRESENT
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
    copy, original = entry(1, "m1", stream="a"), replace(entry(1, "m1", stream="z"), running=True)
    await place(store, copy, original)

    assert await store.waiting(KEY, "m1") == original


# --- starts and retries


async def test_a_start_is_counted_and_gets_envelope_and_journal(store: StateStore) -> None:
    await place(store, entry(1))
    await store.journal(OWNER, KEY, "m1", {"model": b"answer"}, starts=False)

    found = await store.begin(OWNER, KEY, entry(1))

    assert (found.envelope, found.journal) == (envelope(entry(1)), {"model": b"answer"})
    assert await inbox(store) == [begun(entry(1))]


async def test_starts_add_up_and_a_mark_ends_with_the_next_start(store: StateStore) -> None:
    running = replace(entry(1), running=True)
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
    running = replace(entry(1, "long", stream="other"), running=True)
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


# --- the journal


async def test_a_journaled_step_stays_as_it_was_first_written(store: StateStore) -> None:
    await place(store, entry(1))
    await store.journal(OWNER, KEY, "m1", {"a": b"1"}, starts=False)
    await store.journal(OWNER, KEY, "m1", {"a": b"2", "b": b"2"}, starts=True)

    assert (await store.begin(OWNER, KEY, entry(1))).journal == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("fate", [DONE, CANCELLED])
async def test_the_journal_goes_when_the_message_is_settled(store: StateStore, fate: Fate.ValueType) -> None:
    await store.journal(OWNER, KEY, "m1", {"a": b"1"}, starts=False)
    await store.commit(OWNER, commit(entry(1), record(fate)))
    # When a write of the turn comes late
    await store.journal(OWNER, KEY, "m1", {"b": b"2"}, starts=False)

    assert await journal_of(store, "m1") == {}


@pytest.mark.parametrize("fate", [DEAD, EXPIRED])
async def test_the_journal_stays_with_a_dead_letter_until_that_is_settled(
    store: StateStore, fate: Fate.ValueType
) -> None:
    await store.journal(OWNER, KEY, "m1", {"a": b"1"}, starts=False)
    await store.commit(OWNER, commit(entry(1), record(fate)))
    assert await journal_of(store, "m1") == {"a": b"1"}

    await store.commit(OWNER, commit(entry(2, "m1"), record(DONE)))
    assert await journal_of(store, "m1") == {}


async def test_what_does_not_replace_a_dead_letter_leaves_its_journal(store: StateStore) -> None:
    await store.journal(OWNER, KEY, "m1", {"a": b"1"}, starts=False)
    await store.commit(OWNER, commit(entry(1), record(DEAD)))

    await store.commit(OWNER, commit(entry(2, "m1"), record(SKIPPED)))

    assert await journal_of(store, "m1") == {"a": b"1"}


async def journal_of(store: StateStore, message_id: str) -> dict[str, bytes]:
    """What a copy of the message would begin with."""
    probe = entry(1, message_id, stream="probe")
    await store.put(OWNER, KEY, probe, b"")
    return dict((await store.begin(OWNER, KEY, replace(probe, attempts=-1))).journal)


# --- the commit


async def test_a_commit_changes_everything_at_once(store: StateStore) -> None:
    await place(store, entry(1), entry(2), entry(1, "m1", stream="other"))
    await store.journal(OWNER, KEY, "m1", {"a": b"1"}, starts=False)

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


async def test_copies_that_wait_become_skips_whatever_ended_the_message(store: StateStore) -> None:
    """Both came in while nothing was known of either."""
    running, copy = entry(1), entry(1, "m1", stream="other")
    await place(store, copy)

    await store.commit(OWNER, commit(running, record(DEAD)))

    assert await inbox(store) == [replace(copy, skip=True)]


# --- gaps


async def test_a_gap_is_passed_over_and_filled_late_once(store: StateStore) -> None:
    await place(store, entry(3))
    for missing in (1, 2):
        assert await store.pass_over(OWNER, KEY, number(missing), NOW)
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

    assert not await store.pass_over(OWNER, KEY, number(sequence), NOW)

    assert await seen(store) == before
