"""What every state store must do with marks and attempts: who may still write for a turn, and who no more."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    KEY,
    MARK,
    NOW,
    OWNER,
    STRANGE,
    STRANGER,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    fail,
    inbox,
    number,
    outgoing,
    place,
    record,
    seen,
)

from troupe.dataplane.state.errors import Fenced, Marked, VersionConflict
from troupe.dataplane.state.port import Placed, StateStore
from troupe.dataplane.state.session import Entry, Mark, Owner, begun

HEIR = replace(OWNER, epoch=6, instance="worker-2.1")
"""Who owns the shard after OWNER."""
RUNNING = replace(entry(1), running=MARK, attempts=1)

Script = Callable[[StateStore, Owner], Awaitable[Any]]


def writes(message: Entry, index: int = 0, version: int = 0) -> dict[str, Script]:
    """What a turn of the message writes, in the attempt of this index."""
    failed = replace(message, attempts=index + 1, failures=1, not_before=NOW + 1)
    done = replace(commit(message, record(), version), attempt=index, outbox=[outgoing(1)])
    named = attempt(message, index)
    return {
        "journal a start": lambda store, owner: store.journal(owner, KEY, named, {"late": b"1"}, starts=True),
        "journal a result": lambda store, owner: store.journal(owner, KEY, named, {"late": b"1"}, starts=False),
        "retry": lambda store, owner: store.retry(owner, KEY, failed, b"other"),
        "commit DONE": lambda store, owner: store.commit(owner, done),
        "commit DEAD": lambda store, owner: store.commit(owner, replace(done, record=record(DEAD))),
        "commit CANCELLED": lambda store, owner: store.commit(owner, replace(done, record=record(CANCELLED))),
    }


WRITES = writes(entry(1))


async def handed_over(store: StateStore) -> None:
    """Message 1 runs under OWNER's mark, 2 waits, and the shard is HEIR's."""
    await place(store, entry(2), RUNNING)
    await store.claim(HEIR)


# --- marking


async def test_what_has_begun_is_marked_where_it_stands(store: StateStore) -> None:
    await place(store, entry(1), entry(1, "a", stream="other"))
    await store.begin(OWNER, KEY, entry(1, "a", stream="other"))
    running = replace(begun(entry(1, "a", stream="other")), running=MARK)

    assert await store.put(OWNER, KEY, replace(running, starts=0), b"other") is Placed.PRESENT

    assert await inbox(store) == [entry(1), running]
    assert (await store.begin(OWNER, KEY, replace(running, attempts=-1))).envelope == envelope(running)


async def test_what_was_placed_late_is_marked_too(store: StateStore) -> None:
    """It runs on the fast path, and what placed it was carried out meanwhile."""
    await place(store, entry(1))

    assert await store.put(OWNER, KEY, RUNNING, b"") is Placed.PRESENT
    assert await inbox(store) == [replace(entry(1), running=MARK)]


@pytest.mark.parametrize("why", ["failed", "began again", "skip", "other mark", "other message", "never began"])
async def test_what_does_not_run_is_not_marked(store: StateStore, why: str) -> None:
    placed = replace(entry(1), skip=why == "skip", running=STRANGE if why == "other mark" else None)
    await store.put(STRANGER, KEY, placed, envelope(placed))
    await store.claim(OWNER)
    if why in ("failed", "began again"):
        failed = await fail(store, entry(1))
    if why == "began again":
        await store.begin(OWNER, KEY, failed)
    before = await seen(store)

    late = replace(RUNNING, attempts=0 if why == "never began" else 1)
    late = replace(late, message_id="m7") if why == "other message" else late

    assert await store.put(OWNER, KEY, late, b"") is Placed.PRESENT
    assert await seen(store) == before


# --- under the mark


@pytest.mark.parametrize("script", WRITES)
async def test_a_marked_turn_comes_to_its_end_after_the_shard_went(store: StateStore, script: str) -> None:
    await handed_over(store)
    before = await seen(store, owner=HEIR)

    await WRITES[script](store, OWNER)

    assert await seen(store, owner=HEIR, ids=("m1",)) != before
    # and the shard stays where it went
    with pytest.raises(Fenced):
        await store.claim(OWNER)
    await store.claim(HEIR)


@pytest.mark.parametrize("script", WRITES)
@pytest.mark.parametrize(
    "mark", [None, STRANGE, Mark(4, OWNER.instance), Mark(OWNER.epoch, "worker-7.1")], ids=["none", "other", "4", "7.1"]
)
async def test_no_other_mark_lets_through(store: StateStore, script: str, mark: Mark | None) -> None:
    await place(store, replace(RUNNING, running=mark))
    await store.claim(HEIR)
    before = await seen(store, owner=HEIR)

    with pytest.raises(Fenced):
        await WRITES[script](store, OWNER)

    assert await seen(store, owner=HEIR) == before


@pytest.mark.parametrize("script", WRITES)
async def test_a_mark_is_good_for_its_own_number_alone(store: StateStore, script: str) -> None:
    await handed_over(store)

    for other in (entry(2), entry(1, stream="other")):
        with pytest.raises(Fenced):
            await writes(other)[script](store, OWNER)


@pytest.mark.parametrize(
    "script",
    {
        "put": lambda store: store.put(OWNER, KEY, entry(5), b""),
        "put the same": lambda store: store.put(OWNER, KEY, RUNNING, b""),
        "begin": lambda store: store.begin(OWNER, KEY, RUNNING),
        "take over": lambda store: store.take_over(OWNER, KEY, number(1), MARK),
        "pass over": lambda store: store.pass_over(OWNER, KEY, number(1, "silent"), 1, NOW),
        "strike": lambda store: store.strike(OWNER, KEY, [number(1)]),
        "delete": lambda store: store.delete(OWNER, KEY, {}, NOW),
    }.values(),
)
async def test_a_mark_is_good_for_the_writes_of_a_turn_alone(
    store: StateStore, script: Callable[[StateStore], Awaitable[Any]]
) -> None:
    await handed_over(store)

    with pytest.raises(Fenced):
        await script(store)


@pytest.mark.parametrize("script", ["retry", "commit DONE", "commit DEAD", "commit CANCELLED"])
async def test_a_mark_goes_with_the_end_of_the_attempt(store: StateStore, script: str) -> None:
    await handed_over(store)

    await WRITES[script](store, OWNER)

    assert [waiting.running for waiting in await inbox(store)] in ([None], [None, None])
    with pytest.raises(Fenced):
        await WRITES[script](store, OWNER)


async def test_what_failed_under_a_mark_waits_at_the_head_for_the_new_owner(store: StateStore) -> None:
    await handed_over(store)

    await WRITES["retry"](store, OWNER)

    failed = replace(entry(1), attempts=1, failures=1, not_before=NOW + 1)
    assert await inbox(store) == [failed, entry(2)]
    assert (await store.begin(HEIR, KEY, failed)).envelope == envelope(entry(1))


async def test_a_refused_commit_leaves_the_mark(store: StateStore) -> None:
    await handed_over(store)
    before = await seen(store, owner=HEIR)

    with pytest.raises(VersionConflict):
        await store.commit(OWNER, commit(entry(1), record(), version=7))

    assert await seen(store, owner=HEIR) == before


# --- taking over


async def test_nothing_begins_under_another_owners_mark(store: StateStore) -> None:
    await handed_over(store)
    before = await seen(store, owner=HEIR)

    with pytest.raises(Marked):
        await store.begin(HEIR, KEY, RUNNING)

    assert await seen(store, owner=HEIR) == before


async def test_an_earlier_mark_of_the_same_instance_is_another_owners(store: StateStore) -> None:
    await place(store, RUNNING)

    with pytest.raises(Marked):
        await store.begin(replace(OWNER, epoch=6), KEY, RUNNING)


@pytest.mark.parametrize("script", WRITES)
async def test_what_was_taken_over_is_the_new_owners(store: StateStore, script: str) -> None:
    await place(store, RUNNING)
    await store.journal(OWNER, KEY, attempt(entry(1)), {"model": b"answer"}, starts=True)
    await place(store, entry(1, "a", stream="other"))
    await fail(store, entry(1, "a", stream="other"))
    await store.claim(HEIR)

    assert await store.take_over(HEIR, KEY, number(1), MARK)

    taken = replace(RUNNING, running=None, starts=1)
    assert (await inbox(store))[0] == taken
    with pytest.raises(Fenced):
        await WRITES[script](store, OWNER)
    assert (await store.begin(HEIR, KEY, taken)).journal == {"model": b"answer"}
    assert (await inbox(store))[0] == replace(RUNNING, running=None, starts=2, attempts=2)


async def test_a_start_that_was_counted_is_not_counted_again_when_its_turn_is_taken_over(store: StateStore) -> None:
    await place(store, entry(1))
    await store.begin(OWNER, KEY, entry(1))
    await store.put(OWNER, KEY, replace(begun(entry(1)), running=MARK), b"")
    await store.claim(HEIR)

    assert await store.take_over(HEIR, KEY, number(1), MARK)

    assert (await inbox(store))[0] == begun(entry(1))


@pytest.mark.parametrize(
    "asked",
    [(number(1), STRANGE), (number(2), MARK), (number(3), MARK)],
    ids=["other mark", "no mark", "not there"],
)
async def test_only_what_waits_under_the_mark_is_taken_over(store: StateStore, asked: tuple[Any, Mark]) -> None:
    await handed_over(store)
    before = await seen(store, owner=HEIR)

    assert not await store.take_over(HEIR, KEY, *asked)

    assert await seen(store, owner=HEIR) == before


async def test_taking_over_counts_once(store: StateStore) -> None:
    await handed_over(store)
    await store.take_over(HEIR, KEY, number(1), MARK)
    once = await seen(store, owner=HEIR)

    assert not await store.take_over(HEIR, KEY, number(1), MARK)

    assert await seen(store, owner=HEIR) == once


# --- late writes of attempts that ended


async def ended(store: StateStore, how: str) -> None:
    """Attempt 0 at message 1, from the inbox or the fast path, has ended."""
    if how.startswith("settled"):
        await store.commit(OWNER, commit(entry(1), record(DEAD)))
        return
    if not how.endswith("fast"):
        await place(store, entry(1))
        await store.begin(OWNER, KEY, entry(1))
    failed = replace(entry(1), attempts=1, failures=1)
    await store.retry(OWNER, KEY, failed, envelope(failed))
    if how.startswith("began again"):
        await store.begin(OWNER, KEY, failed)
    if how.startswith("runs again"):
        await store.begin(OWNER, KEY, failed)
        await store.put(OWNER, KEY, replace(RUNNING, attempts=2), b"")


@pytest.mark.parametrize("script", WRITES)
@pytest.mark.parametrize("how", ["settled", "failed", "failed fast", "began again", "began again fast", "runs again"])
async def test_a_late_write_of_an_attempt_that_ended_changes_nothing(store: StateStore, how: str, script: str) -> None:
    await ended(store, how)
    before = await seen(store, ids=("m1",))

    if script == "journal a start":
        with pytest.raises(VersionConflict):
            await WRITES[script](store, OWNER)
    else:
        await WRITES[script](store, OWNER)

    assert await seen(store, ids=("m1",)) == before


async def test_an_attempt_that_ended_hears_that_before_it_hears_of_a_cancel(store: StateStore) -> None:
    await ended(store, "failed")
    await store.control(KEY, cancel("m1", "v1"))

    with pytest.raises(VersionConflict):
        await WRITES["journal a start"](store, OWNER)


@pytest.mark.parametrize("script", WRITES)
@pytest.mark.parametrize("how", ["failed", "began again", "runs again"])
async def test_the_attempt_after_it_writes(store: StateStore, how: str, script: str) -> None:
    await ended(store, how)
    if how == "failed":
        await store.begin(OWNER, KEY, replace(entry(1), attempts=1))
    before = await seen(store, ids=("m1",))

    await writes(entry(1), 1)[script](store, OWNER)

    assert await seen(store, ids=("m1",)) != before


@pytest.mark.parametrize("script", WRITES)
@pytest.mark.parametrize("stands", ["nowhere", "placed late", "begun", "marked", "begun and marked", "taken over"])
async def test_an_attempt_that_runs_writes(store: StateStore, stands: str, script: str) -> None:
    if stands in ("placed late", "begun", "begun and marked"):
        await place(store, entry(1))
    if stands.startswith("begun"):
        await store.begin(OWNER, KEY, entry(1))
    if stands.endswith("marked") or stands == "taken over":
        await place(store, RUNNING)
    if stands == "taken over":
        await store.take_over(OWNER, KEY, number(1), MARK)
    before = await seen(store, ids=("m1",))

    await WRITES[script](store, OWNER)

    assert await seen(store, ids=("m1",)) != before


async def test_a_skip_is_settled_whatever_its_message_began(store: StateStore) -> None:
    """It failed once, and was cancelled where it waited: what settles its number is the attempt that never begins."""
    await place(store, entry(1))
    failed = await fail(store, entry(1))
    await store.control(KEY, cancel("m1", "v1"))

    await store.commit(OWNER, replace(commit(failed, None), attempt=1))

    assert await inbox(store) == []
