"""What every state store must do with a turn that waits, for RESUME or for a promise, and with the session's rest."""

from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DONE,
    KEY,
    MARK,
    OWNER,
    STRANGE,
    STRANGER,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    inbox,
    number,
    outgoing,
    pause,
    place,
    promise,
    record,
    resume,
    seen,
    settlement,
)

from troupe.dataplane.state.errors import CancelRecorded, Fenced, PauseRecorded
from troupe.dataplane.state.port import Claimed, StateStore
from troupe.dataplane.state.session import Entry, begun
from troupe.v1.turn_pb2 import FATE_WAITING

APPROVAL = promise()


async def ask(store: StateStore, message: Entry, *promises: str) -> Entry:
    """A turn that began on the fast path and makes promises; how it waits for them."""
    made = [promise(name, message.message_id) for name in promises or ("approval",)]
    await store.journal(OWNER, KEY, attempt(message), {"ask": b""}, starts=False, promises=made)
    return replace(message, attempts=1, awaits=tuple(each.id for each in made), suspended=5.0)


async def suspended(store: StateStore, message: Entry, *promises: str) -> Entry:
    waits = await ask(store, message, *promises)
    assert await store.suspend(OWNER, KEY, waits, envelope(message))
    return waits


async def at_rest(store: StateStore) -> bool:
    return (await store.claim(OWNER)).due == []


# --- a turn that waits


async def test_a_turn_that_waits_stands_at_the_head_and_its_session_rests(store: StateStore) -> None:
    await place(store, entry(2))

    waits = await suspended(store, entry(1))

    assert await inbox(store) == [waits, entry(2)]
    assert await at_rest(store)
    assert await store.messages(0, "", None, 10) == [(KEY, waits, FATE_WAITING), (KEY, entry(2), FATE_WAITING)]


async def test_no_start_is_held_against_a_wait(store: StateStore) -> None:
    await place(store, entry(1))
    for attempts in range(5):
        await store.begin(OWNER, KEY, replace(entry(1), attempts=attempts))
        await store.control(KEY, pause(verb_id=f"p{attempts}"))
        assert await store.suspend(OWNER, KEY, replace(entry(1), attempts=attempts + 1, starts=1), b"other")
        await store.control(KEY, resume(verb_id=f"r{attempts}"))

    assert await inbox(store) == [replace(entry(1), attempts=5)]
    assert (await store.begin(OWNER, KEY, replace(entry(1), attempts=5))).envelope == envelope(entry(1))


async def test_what_awaits_a_promise_does_not_begin(store: StateStore) -> None:
    waits = await suspended(store, entry(1))
    before = await seen(store)

    with pytest.raises(KeyError):
        await store.begin(OWNER, KEY, waits)

    assert await seen(store) == before
    # but for its end
    await store.control(KEY, cancel())
    assert (await store.begin(OWNER, KEY, waits)).journal == {"ask": b""}
    assert await inbox(store) == [replace(begun(waits), awaits=())]


async def test_one_promise_of_several_is_enough(store: StateStore) -> None:
    waits = await suspended(store, entry(1), "first", "second")

    await store.settle_promise(KEY, settlement(promise("second")))

    assert await inbox(store) == [replace(waits, awaits=())]
    assert not await at_rest(store)
    again = await store.begin(OWNER, KEY, waits)
    assert [(made.name, made.value) for made in again.promises] == [("first", b""), ("second", b"yes")]


async def test_a_mark_goes_with_the_wait(store: StateStore) -> None:
    await place(store, entry(2), replace(entry(1), running=MARK, attempts=1))
    waits = await ask(store, entry(1))

    assert await store.suspend(OWNER, KEY, replace(waits, running=MARK), b"other")

    assert await inbox(store) == [waits, entry(2)]


async def test_a_turn_under_its_mark_may_wait_after_its_shard_was_handed_over(store: StateStore) -> None:
    marked = replace(entry(1), running=STRANGE, attempts=1)
    await store.put(STRANGER, KEY, marked, envelope(entry(1)))
    await store.claim(OWNER)
    made = [promise()]
    await store.journal(STRANGER, KEY, attempt(entry(1)), {"ask": b""}, starts=True, promises=made)
    waits = replace(marked, running=None, awaits=(APPROVAL.id,), suspended=5.0)

    assert await store.suspend(STRANGER, KEY, waits, b"")
    assert await inbox(store) == [waits]
    with pytest.raises(Fenced):
        await store.suspend(STRANGER, KEY, waits, b"")


# --- when it need not wait


@pytest.mark.parametrize("how", ["settled", "unknown", "one of two"])
async def test_what_is_settled_already_is_not_waited_for(store: StateStore, how: str) -> None:
    waits = await ask(store, entry(1), "approval", "second")
    if how == "unknown":
        waits = replace(waits, awaits=("m1/nothing",))
    else:
        await store.settle_promise(KEY, settlement(APPROVAL))
    if how == "settled":
        waits = replace(waits, awaits=(APPROVAL.id,))
    before = await seen(store)

    assert not await store.suspend(OWNER, KEY, waits, b"")
    assert await seen(store) == before


async def test_without_a_pause_nothing_waits_for_resume(store: StateStore) -> None:
    await place(store, entry(1))
    await store.begin(OWNER, KEY, entry(1))
    before = await seen(store)

    assert not await store.suspend(OWNER, KEY, replace(entry(1), attempts=1), b"")
    assert await seen(store) == before


async def test_a_cancelled_turn_does_not_wait(store: StateStore) -> None:
    waits = await ask(store, entry(1))
    await store.control(KEY, cancel())
    before = await seen(store)

    with pytest.raises(CancelRecorded):
        await store.suspend(OWNER, KEY, waits, b"")

    assert await seen(store) == before


@pytest.mark.parametrize("over", ["settled", "skip", "put back", "begun again", "begun again and paused"])
async def test_a_late_wait_changes_nothing(store: StateStore, over: str) -> None:
    waits = await ask(store, entry(1))
    if over == "settled":
        await store.commit(OWNER, commit(entry(1), record()))
    elif over == "skip":
        await store.put(OWNER, KEY, replace(entry(1), skip=True), b"")
    elif over == "put back":
        await store.retry(OWNER, KEY, replace(entry(1), attempts=1, failures=1), b"")
    else:
        await place(store, entry(1))
        await store.begin(OWNER, KEY, replace(entry(1), attempts=1))
    if over.endswith("paused"):
        await store.control(KEY, pause())
        waits = replace(waits, awaits=())
    before = await seen(store)

    assert await store.suspend(OWNER, KEY, waits, b"")
    assert await seen(store) == before
    assert not (await store.load(KEY)).inbox or not await at_rest(store)


async def test_the_same_again_lays_to_rest_and_no_more(store: StateStore) -> None:
    waits = await suspended(store, entry(1))
    await store.control(KEY, pause("m9"))
    assert not await at_rest(store)
    before = await seen(store)

    assert await store.suspend(OWNER, KEY, replace(waits, suspended=9.0, failures=7), b"other")

    assert await seen(store) == before
    assert await at_rest(store)


@pytest.mark.parametrize("waits_for", ["a promise", "RESUME"])
async def test_a_wait_that_is_over_when_it_is_asked_for_again_runs_on(store: StateStore, waits_for: str) -> None:
    """The first answer was lost: the store has the turn at rest, and the turn goes on."""
    if waits_for == "RESUME":
        await store.control(KEY, pause())
        waits = replace(entry(1), attempts=1, suspended=5.0)
        assert await store.suspend(OWNER, KEY, waits, envelope(entry(1)))
        await store.control(KEY, resume())
    else:
        waits = await suspended(store, entry(1))
        await store.settle_promise(KEY, settlement(APPROVAL))

    before = await inbox(store)
    assert not await store.suspend(OWNER, KEY, waits, envelope(entry(1)))
    assert await inbox(store) == before, "nothing runs"

    assert not await store.suspend(OWNER, KEY, waits, envelope(entry(1)), runs=True)

    runs = replace(entry(1), attempts=2, running=MARK)
    assert await inbox(store) == [runs]
    assert not await store.suspend(OWNER, KEY, waits, envelope(entry(1)), runs=True), "and so it is asked once more"
    assert await inbox(store) == [runs]
    # what it does then is its own
    await store.journal(OWNER, KEY, attempt(entry(1), 1), {"next": b""}, starts=True)
    await store.retry(OWNER, KEY, replace(runs, running=None, failures=1), b"")
    assert await store.suspend(OWNER, KEY, waits, envelope(entry(1)), runs=True), "late, it changes nothing"
    assert await inbox(store) == [replace(runs, running=None, failures=1)]


async def test_a_pause_of_another_message_lays_nothing_to_rest(store: StateStore) -> None:
    await place(store, entry(1))
    await store.control(KEY, pause("other"))

    assert await store.suspend(OWNER, KEY, entry(1, "other"), b"")

    assert not await at_rest(store)


async def test_what_was_paused_before_it_began_is_laid_to_rest(store: StateStore) -> None:
    await place(store, entry(1), entry(2))
    await store.control(KEY, pause())
    before = await seen(store)

    assert await store.suspend(OWNER, KEY, entry(1), b"")

    assert await seen(store) == before
    assert await at_rest(store)


# --- rest


async def test_what_takes_a_session_from_rest_has_its_verbs_looked_at_again(store: StateStore) -> None:
    await place(store, entry(1))
    await store.control(KEY, pause())
    await store.suspend(OWNER, KEY, entry(1), b"")
    assert await store.claim(OWNER) == Claimed([], [])

    await store.pass_over(OWNER, KEY, number(1, "other"), 1, 0.0)

    assert await store.claim(OWNER) == Claimed([KEY], [KEY])


async def test_what_comes_behind_leaves_it_at_rest(store: StateStore) -> None:
    await suspended(store, entry(1))

    await place(store, entry(2), replace(entry(3), skip=True))

    assert await at_rest(store)


@pytest.mark.parametrize(
    "what",
    [
        "control",
        "settlement",
        "begin",
        "take over",
        "retry",
        "commit",
        "redriven",
        "head",
        "pass over",
        "delete",
        "dry",
    ],
)
async def test_what_concerns_a_session_takes_it_from_rest(store: StateStore, what: str) -> None:
    waits, beside = await suspended(store, entry(1)), entry(1, "m8", stream="beside")
    await store.journal(OWNER, KEY, attempt(beside), {}, starts=False, promises=[promise("x", "m8")])
    other = entry(1, "m9", stream="other")
    match what:
        case "control" | "dry":
            await store.control(KEY, replace(pause("m7"), dry_run=what == "dry"))
        case "settlement":
            await store.settle_promise(KEY, settlement(promise("x", "m8")))
        case "begin":
            await store.put(OWNER, KEY, other, b"")
            await store.begin(OWNER, KEY, other)
        case "take over":
            await store.put(OWNER, KEY, replace(other, running=MARK), b"")
            assert await store.suspend(OWNER, KEY, waits, b"")
            await store.take_over(OWNER, KEY, other.number, MARK)
        case "retry":
            await store.retry(OWNER, KEY, replace(other, attempts=1, failures=1), b"")
        case "commit":
            await store.commit(OWNER, commit(other, record()))
        case "redriven":
            await store.put(OWNER, KEY, replace(other, redriven=True), b"")
        case "head":
            await store.put(OWNER, KEY, replace(other, running=MARK), b"")
        case "pass over":
            assert await store.pass_over(OWNER, KEY, number(1, "third"), 1, 0.0)
        case "delete":
            await store.delete(OWNER, KEY, {}, 0.0)

    assert await at_rest(store) == (what == "dry")


async def test_a_session_at_rest_that_has_sent_something_is_due(store: StateStore) -> None:
    await store.commit(OWNER, replace(commit(entry(1), record()), outbox=[outgoing(1)]))
    await store.control(KEY, pause("m2"))
    await place(store, entry(2))
    assert await store.suspend(OWNER, KEY, entry(2), b"")

    assert (await store.claim(OWNER)).due == [KEY]
    await store.strike(OWNER, KEY, [outgoing(1).number])
    assert await store.claim(OWNER) == Claimed([], [])


async def test_the_end_of_what_a_session_rests_on_takes_it_from_rest(store: StateStore) -> None:
    await suspended(store, entry(1))
    await place(store, entry(2))
    await store.control(KEY, cancel())
    await store.begin(OWNER, KEY, replace(entry(1), attempts=1))

    await store.commit(OWNER, replace(commit(entry(1), record(CANCELLED)), attempt=1))

    assert (await store.claim(OWNER)).due == [KEY]
    assert await inbox(store) == [entry(2)]


async def test_a_paused_turn_that_also_awaits_goes_on_when_both_are_over(store: StateStore) -> None:
    waits = await suspended(store, entry(1))
    await store.control(KEY, pause())
    await store.settle_promise(KEY, settlement(APPROVAL))
    ready = replace(waits, awaits=())

    with pytest.raises(PauseRecorded):
        await store.begin(OWNER, KEY, ready)
    assert await store.suspend(OWNER, KEY, ready, b"")
    assert await at_rest(store)
    await store.control(KEY, resume())

    assert not await at_rest(store)
    await store.begin(OWNER, KEY, ready)
    await store.commit(OWNER, replace(commit(entry(1), record(DONE)), attempt=1))
    assert (await store.load(KEY)).version == 1
