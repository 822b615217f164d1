"""What every state store must do with RESTART: one script settles what is at rest and lets another message go on."""

from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    EXPIRED,
    KEY,
    NOW,
    OWNER,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    fail,
    inbox,
    number,
    pause,
    place,
    promise,
    record,
    resume,
    seen,
    settlement,
    verb,
)

from troupe.dataplane.state.control import Control, Restart
from troupe.dataplane.state.port import Placed, Resting, StateStore
from troupe.dataplane.state.session import Entry, Record, Verbs, begun
from troupe.v1 import promise_pb2
from troupe.v1.agent_pb2 import VERB_ANSWER_APPLIED as APPLIED
from troupe.v1.agent_pb2 import VERB_ANSWER_NOT_AT_REST as NOT_AT_REST
from troupe.v1.agent_pb2 import VERB_ANSWER_NOT_FOUND as NOT_FOUND
from troupe.v1.agent_pb2 import VERB_ANSWER_PENDING as PENDING
from troupe.v1.agent_pb2 import VERB_ANSWER_STALE as STALE
from troupe.v1.agent_pb2 import VERB_ANSWER_TOO_LATE as TOO_LATE
from troupe.v1.agent_pb2 import VERB_RESTART
from troupe.v1.turn_pb2 import FATE_PAUSED, FATE_SCHEDULED, FATE_WAITING, Fate

JOURNAL = {"start/a": b"1", "result/a": b"2", "start/b": b"3"}
NEW = replace(entry(1, "again", stream="restart/again"), digest=b"m1", attributes=(("team", "red"),))
ENTERED = replace(NEW, placed=NOW)


def restart(
    message_id: str = "m1", verb_id: str = "restart", *, seen: int = 3, promises: frozenset[str] = frozenset()
) -> Control:
    """Another message goes on after the first of two calls."""
    kept = {step: content for step, content in JOURNAL.items() if step.endswith("/a")}
    new = replace(NEW, digest=message_id.encode(), due=4e9)
    return replace(verb(VERB_RESTART, message_id, verb_id), restart=Restart(new, envelope(NEW), kept, promises, seen))


async def rest(store: StateStore) -> None:
    """It has begun, has done something, and waits for another attempt."""
    message = entry(1)
    await place(store, message)
    await store.begin(OWNER, KEY, message)
    await store.journal(OWNER, KEY, attempt(message), JOURNAL, starts=True)
    await store.retry(OWNER, KEY, replace(begun(message), starts=0, failures=1), envelope(message))


async def die(store: StateStore, fate: Fate.ValueType = DEAD) -> None:
    await place(store, entry(1))
    await store.begin(OWNER, KEY, entry(1))
    await store.journal(OWNER, KEY, attempt(entry(1)), JOURNAL, starts=True)
    await store.commit(OWNER, commit(entry(1), Record(fate, b"died", b"m1")))


async def enter(store: StateStore) -> list[Entry]:
    """Let what is due take its place; the inbox, without when things were placed."""
    await store.due(OWNER)
    return [replace(each, placed=NOW) for each in await inbox(store)]


# --- what it does


async def test_what_waits_is_settled_and_another_message_goes_on_with_its_steps(store: StateStore) -> None:
    await rest(store)
    assert await store.resting(KEY, "m1") == Resting(b"m1", envelope(entry(1)), JOURNAL, 3, [])

    assert await store.control(KEY, restart()) == APPLIED

    assert await store.record(KEY, "m1") == Record(CANCELLED, b"by restart", b"m1")
    waits = await store.waiting(KEY, "again")
    assert waits is not None
    assert waits.due < 4e9  # due at once, whatever clock it was made by
    assert [(one.message_id, fate) for _, one, fate in await store.messages(0, KEY.path, None, 9)] == [
        ("again", FATE_SCHEDULED)
    ]
    assert await store.resting(KEY, "m1") is None
    old, new = await enter(store)
    assert (old.number, old.skip) == (number(1), True)  # its number is settled in order
    assert new == ENTERED
    found = await store.begin(OWNER, KEY, new)
    assert found.envelope == envelope(NEW)
    assert found.journal == {"start/a": b"1", "result/a": b"2"}


@pytest.mark.parametrize("fate", [DEAD, EXPIRED], ids=Fate.Name)
async def test_a_dead_letter_is_settled_and_another_message_goes_on(store: StateStore, fate: Fate.ValueType) -> None:
    await die(store, fate)
    assert await store.resting(KEY, "m1") == Resting(b"m1", b"", JOURNAL, 3, [])

    assert await store.control(KEY, restart()) == APPLIED

    assert await store.record(KEY, "m1") == Record(CANCELLED, b"by restart", b"m1")
    assert await enter(store) == [ENTERED]
    assert (await store.begin(OWNER, KEY, NEW)).journal == {"start/a": b"1", "result/a": b"2"}


async def test_a_redriven_copy_that_waits_is_settled_with_the_dead_letter(store: StateStore) -> None:
    await die(store)
    await store.redrive(KEY, "m1", number(1, "letter"))
    await place(store, replace(entry(1, "m1", stream="letter"), redriven=True))

    assert await store.control(KEY, restart()) == APPLIED

    assert await store.record(KEY, "m1") == Record(CANCELLED, b"by restart", b"m1")
    assert [(each.message_id, each.skip) for each in await enter(store)] == [("m1", True), ("again", False)]


async def test_a_redriven_copy_that_comes_after_it_is_a_skip(store: StateStore) -> None:
    await die(store)
    await store.control(KEY, restart())

    copy = replace(entry(1, "m1", stream="letter"), redriven=True)
    assert await store.put(OWNER, KEY, copy, b"") is Placed.SKIPPED


async def test_a_pause_ends_with_the_message_and_does_not_bind_the_other(store: StateStore) -> None:
    await rest(store)
    await store.control(KEY, pause())
    await store.suspend(OWNER, KEY, replace(entry(1), attempts=1, suspended=1.0), b"")
    assert [fate for _, _, fate in await store.messages(0, KEY.path, None, 9)] == [FATE_PAUSED]

    assert await store.control(KEY, restart()) == APPLIED

    assert await store.verbs(KEY) == Verbs()
    claimed = await store.claim(OWNER)
    assert claimed.due == [KEY]  # and the session rests no more
    _, new = await enter(store)
    await store.begin(OWNER, KEY, new)


async def test_promises_that_are_kept_are_the_others_and_the_rest_is_withdrawn(store: StateStore) -> None:
    given, open_, dropped = promise("given"), promise("open"), promise("dropped")
    await place(store, entry(1))
    await store.begin(OWNER, KEY, entry(1))
    await store.journal(OWNER, KEY, attempt(entry(1)), JOURNAL, starts=True, promises=[given, open_, dropped])
    await store.settle_promise(KEY, settlement(given))
    await store.suspend(
        OWNER, KEY, replace(entry(1), attempts=1, suspended=1.0, awaits=(open_.id, dropped.id)), envelope(entry(1))
    )
    found = await store.resting(KEY, "m1")
    assert found is not None
    assert [one.name for one in found.promises] == ["dropped", "given", "open"]

    assert await store.control(KEY, restart(promises=frozenset({given.id, open_.id}))) == APPLIED

    _, new = await enter(store)
    made = {one.name: one for one in (await store.begin(OWNER, KEY, new)).promises}
    assert {name: one.state for name, one in made.items()} == {
        "given": promise_pb2.PROMISE_STATE_RESOLVED,
        "open": promise_pb2.PROMISE_STATE_OPEN,
    }
    assert all(one.message_id == "again" for one in made.values())
    gone = await store.promise(KEY, dropped.id)
    assert gone is not None
    assert gone.state == promise_pb2.PROMISE_STATE_WITHDRAWN
    # whoever has its token may still settle it, and what waits for it goes on
    waits = replace(begun(new), starts=0, suspended=2.0, awaits=(open_.id,))
    assert await store.suspend(OWNER, KEY, waits, b"")
    await store.settle_promise(KEY, settlement(open_, "s2"))
    assert [each.awaits for each in await inbox(store) if not each.skip] == [()]
    # and it goes with the message that has it
    await store.commit(OWNER, replace(commit(new, Record(CANCELLED, b"", b"m1")), attempt=1))
    assert [one.state for _, _, one in await store.promises(KEY.path, None, 9)] == []


async def test_one_verb_makes_one_message(store: StateStore) -> None:
    await rest(store)
    await store.control(KEY, restart())
    before = await seen(store, ids=("again",))

    assert await store.control(KEY, restart()) == APPLIED
    assert await store.control(KEY, replace(restart(), restart=None)) == APPLIED  # as a worker tells another
    assert await store.control(KEY, restart(verb_id="another")) == TOO_LATE

    assert replace(await seen(store, ids=("again",)), summary=before.summary) == before
    assert len(await enter(store)) == 2


async def test_what_only_waited_is_restarted_without_steps(store: StateStore) -> None:
    await place(store, entry(1))

    control = restart(seen=0)
    assert control.restart is not None
    bare = replace(control, restart=replace(control.restart, journal={}))
    assert await store.control(KEY, bare) == APPLIED

    assert (await store.load(KEY)).journaled == frozenset()
    assert [each.message_id for each in await enter(store) if not each.skip] == ["again"]


async def test_the_other_may_be_cancelled_before_it_comes(store: StateStore) -> None:
    """It has a journal, so its turn does that, and takes back what was done."""
    await rest(store)
    await store.control(KEY, restart())

    assert await store.control(KEY, cancel("again")) == APPLIED

    assert await enter(store) == [replace(entry(1), attempts=1, failures=1, skip=True), ENTERED]
    assert (await store.verbs(KEY)).cancelled == {"again"}
    assert (await store.begin(OWNER, KEY, NEW)).journal == {"start/a": b"1", "result/a": b"2"}


# --- what it does not do


@pytest.mark.parametrize(
    ("stands", "answer"),
    [
        ("unseen", NOT_FOUND),
        ("scheduled", NOT_AT_REST),
        ("runs on the fast path", NOT_AT_REST),
        ("runs from the inbox", NOT_AT_REST),
        ("runs under a mark", NOT_AT_REST),
        ("runs on after a wait", NOT_AT_REST),
        ("is on its way again", NOT_AT_REST),
        ("done", TOO_LATE),
        ("cancelled", TOO_LATE),
        ("is being cancelled", TOO_LATE),
        ("has journaled more", NOT_AT_REST),
        ("attempt 0", STALE),
        ("died", STALE),
    ],
)
async def test_what_is_not_at_rest_stays_as_it_is(store: StateStore, stands: str, answer: int) -> None:
    control, message = restart(), entry(1)
    match stands:
        case "scheduled":
            await place(store, replace(message, due=4e9))
            control = restart(seen=0)
        case "runs on the fast path":
            await store.journal(OWNER, KEY, attempt(message), JOURNAL, starts=True)
        case "runs from the inbox":
            await place(store, message)
            await store.begin(OWNER, KEY, message)
            await store.journal(OWNER, KEY, attempt(message), JOURNAL, starts=True)
        case "runs under a mark":
            await store.journal(OWNER, KEY, attempt(message), JOURNAL, starts=True)
            await place(store, replace(message, running=OWNER.mark, attempts=1))
        case "runs on after a wait":
            await store.control(KEY, pause())
            await store.journal(OWNER, KEY, attempt(message), JOURNAL, starts=False)
            waits = replace(message, attempts=1, suspended=1.0)
            assert await store.suspend(OWNER, KEY, waits, envelope(message))
            await store.control(KEY, resume())
            assert not await store.suspend(OWNER, KEY, waits, envelope(message), runs=True)
        case "is on its way again":
            await die(store)
            await store.redrive(KEY, "m1", number(1, "letter"))
        case "done" | "cancelled":
            await store.commit(OWNER, commit(message, record(Fate.Value(f"FATE_{stands.upper()}"))))
        case "is being cancelled":
            await rest(store)
            assert await store.control(KEY, cancel()) == APPLIED
        case "has journaled more":
            await rest(store)
            control = restart(seen=2)
        case "died":
            await die(store)
            control = replace(restart(), attempt=0)  # it is in none
        case "attempt 0":
            await rest(store)
            control = replace(restart(), attempt=0)
    before = await seen(store, ids=("m1", "again"))

    assert await store.control(KEY, control) == answer

    after = await seen(store, ids=("m1", "again"))
    assert (after.loaded, after.records, after.waiting) == (before.loaded, before.records, before.waiting)
    assert await store.control(KEY, replace(control, dry_run=True)) == answer  # and so it stays under this id


async def test_a_dead_letter_that_was_purged_is_not_found(store: StateStore) -> None:
    await die(store)
    await store.purge(KEY, "m1")

    assert await store.resting(KEY, "m1") == Resting(b"m1", b"", JOURNAL, 3, [], purged=True)
    assert await store.control(KEY, replace(restart(), restart=None)) == NOT_FOUND

    assert await store.record(KEY, "m1") == Record(DEAD, b"died", b"m1")


async def test_another_letter_of_a_purged_message_will_do(store: StateStore) -> None:
    await die(store)
    await store.purge(KEY, "m1")

    assert await store.control(KEY, restart()) == APPLIED


async def test_what_dies_while_it_is_looked_for_was_not_at_rest(store: StateStore) -> None:
    """Its letter is there: NOT_FOUND would say that nothing is kept of it."""
    assert await store.resting(KEY, "m1") is None
    await die(store)

    assert await store.control(KEY, replace(restart(), restart=None)) == NOT_AT_REST
    assert await store.control(KEY, restart(verb_id="again")) == APPLIED


async def test_a_dead_letter_that_comes_again_is_none(store: StateStore) -> None:
    await die(store)
    await store.redrive(KEY, "m1", number(1, "letter"))

    assert await store.resting(KEY, "m1") is None
    assert await store.control(KEY, replace(restart(), restart=None)) == NOT_AT_REST


async def test_a_dry_run_says_what_would_happen(store: StateStore) -> None:
    await rest(store)
    before = await seen(store, ids=("again",))

    assert await store.control(KEY, replace(restart(), dry_run=True)) == APPLIED

    assert await seen(store, ids=("again",)) == before
    assert await store.control(KEY, restart()) == APPLIED


async def test_what_comes_late_of_an_attempt_before_it_changes_nothing(store: StateStore) -> None:
    await rest(store)
    await store.control(KEY, restart())

    await store.journal(OWNER, KEY, attempt(entry(1)), {"late": b""}, starts=False)
    await store.commit(OWNER, replace(commit(entry(1), record(DEAD)), attempt=0))

    assert await store.record(KEY, "m1") == Record(CANCELLED, b"by restart", b"m1")
    assert "m1" not in (await store.load(KEY)).journaled


async def test_a_verb_on_the_other_may_come_first(store: StateStore) -> None:
    assert await store.control(KEY, pause("again")) == PENDING
    await rest(store)

    await store.control(KEY, restart())

    assert [(one.message_id, fate) for _, one, fate in await store.messages(0, KEY.path, None, 9)] == [
        ("again", FATE_SCHEDULED)
    ]
    await enter(store)
    assert [fate for _, _, fate in await store.messages(0, KEY.path, None, 9)] == [FATE_PAUSED]


async def test_a_failed_attempt_rests_until_it_is_tried_again(store: StateStore) -> None:
    """Between the two it may be restarted."""
    await place(store, entry(1))
    failed = await fail(store, entry(1))
    assert [fate for _, _, fate in await store.messages(0, KEY.path, None, 9)] == [FATE_WAITING]

    assert await store.control(KEY, restart(seen=0)) == APPLIED

    assert (await enter(store))[0] == replace(failed, skip=True)
