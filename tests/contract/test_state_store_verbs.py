"""What every state store must do with KILL, PAUSE and RESUME, beside what it does with a CANCEL, and who is told."""

from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    DONE,
    EXPIRED,
    KEY,
    MARK,
    OWNER,
    SKIPPED,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    fail,
    inbox,
    pause,
    place,
    record,
    resume,
    seen,
    verb,
)

from troupe.dataplane.state.errors import CancelRecorded, PauseRecorded, VersionConflict
from troupe.dataplane.state.port import Claimed, Placed, StateStore
from troupe.dataplane.state.session import Entry, Verbs, begun
from troupe.v1.agent_pb2 import VERB_ANSWER_APPLIED as APPLIED
from troupe.v1.agent_pb2 import VERB_ANSWER_NOT_FOUND as NOT_FOUND
from troupe.v1.agent_pb2 import VERB_ANSWER_PENDING as PENDING
from troupe.v1.agent_pb2 import VERB_ANSWER_STALE as STALE
from troupe.v1.agent_pb2 import VERB_ANSWER_TOO_LATE as TOO_LATE
from troupe.v1.agent_pb2 import VERB_CANCEL, VERB_KILL, VERB_PAUSE, VERB_RESUME, Verb
from troupe.v1.turn_pb2 import FATE_PAUSED, FATE_WAITING, Fate


async def begin(store: StateStore, message: Entry, steps: dict[str, bytes] | None = None) -> None:
    """A turn from the inbox, which has journaled a step."""
    await place(store, message)
    await store.begin(OWNER, KEY, message)
    await store.journal(OWNER, KEY, attempt(message), steps or {"tool": b"started"}, starts=True)


async def suspend(store: StateStore, message: Entry) -> bool:
    """The end of a first attempt that waits for RESUME."""
    return await store.suspend(OWNER, KEY, replace(message, attempts=1, suspended=1.0), envelope(message))


# --- PAUSE


@pytest.mark.parametrize("stands", ["unseen", "waits", "begun", "journaled", "scheduled"])
async def test_a_pause_binds_a_message_wherever_it_stands(store: StateStore, stands: str) -> None:
    if stands in ("waits", "begun"):
        await place(store, entry(1))
    if stands == "begun":
        await store.begin(OWNER, KEY, entry(1))
    if stands == "journaled":
        await store.journal(OWNER, KEY, attempt(entry(1)), {"a": b"1"}, starts=False)
    if stands == "scheduled":
        await place(store, replace(entry(1), due=4e9))
    before = await seen(store, ids=("m1",))

    assert await store.control(KEY, pause()) == (PENDING if stands == "unseen" else APPLIED)

    assert await store.verbs(KEY) == Verbs(paused={"m1"})
    after = await seen(store, ids=("m1",))
    assert after.loaded == replace(before.loaded, verbs=Verbs(paused={"m1"}))
    assert (after.records, after.waiting) == (before.records, before.waiting)


async def test_a_paused_message_starts_nothing_and_does_not_end_as_done(store: StateStore) -> None:
    await begin(store, entry(1))
    await store.control(KEY, pause())
    before = await seen(store)

    with pytest.raises(PauseRecorded):
        await store.journal(OWNER, KEY, attempt(entry(1)), {"next": b"started"}, starts=True)
    with pytest.raises(PauseRecorded):
        await store.commit(OWNER, commit(entry(1), record()))

    assert await seen(store) == before
    # but what came of a step that had started is kept
    await store.journal(OWNER, KEY, attempt(entry(1)), {"result": b"42"}, starts=False)
    assert (await store.begin(OWNER, KEY, entry(1))).journal == {"tool": b"started", "result": b"42"}


async def test_a_paused_message_does_not_begin(store: StateStore) -> None:
    await place(store, entry(1))
    await store.control(KEY, pause())

    with pytest.raises(PauseRecorded):
        await store.begin(OWNER, KEY, entry(1))

    assert await inbox(store) == [entry(1)]
    await store.control(KEY, cancel())
    await store.begin(OWNER, KEY, entry(1))


async def test_a_skip_of_a_paused_message_may_begin(store: StateStore) -> None:
    """It only settles its number."""
    await store.control(KEY, pause())
    await place(store, replace(entry(1), skip=True))

    assert (await store.begin(OWNER, KEY, entry(1))).envelope == envelope(entry(1))


@pytest.mark.parametrize("fate", [DEAD, EXPIRED, CANCELLED, SKIPPED], ids=Fate.Name)
async def test_a_paused_message_may_end_in_other_ways(store: StateStore, fate: Fate.ValueType) -> None:
    await begin(store, entry(1))
    await store.control(KEY, pause())

    await store.commit(OWNER, commit(entry(1), record(fate)))

    assert await store.record(KEY, "m1") == record(fate)
    assert await store.verbs(KEY) == Verbs()
    # and its pause ends with it: a redriven copy may begin
    again = replace(entry(1, "m1", stream="again"), redriven=fate in (DEAD, EXPIRED))
    await place(store, again)
    await store.begin(OWNER, KEY, again)


async def test_a_paused_message_that_failed_is_put_back(store: StateStore) -> None:
    await begin(store, entry(1))
    await store.control(KEY, pause())

    await store.retry(OWNER, KEY, replace(begun(entry(1)), starts=0, failures=1), b"")

    assert (await inbox(store))[0].failures == 1


async def test_a_pause_comes_too_late_for_what_is_settled_or_cancelled(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    await begin(store, entry(2))
    await store.control(KEY, cancel("m2"))

    assert await store.control(KEY, pause("m1")) == TOO_LATE
    assert await store.control(KEY, pause("m2")) == TOO_LATE
    assert (await store.verbs(KEY)).paused == set()


# --- RESUME


async def test_a_resume_lifts_the_pause_that_it_names(store: StateStore) -> None:
    await place(store, entry(1))
    await store.control(KEY, pause(verb_id="p1"))
    await store.control(KEY, pause(verb_id="p2"))

    assert await store.control(KEY, resume(verb_id="r1", lifts="p1")) == APPLIED
    assert await store.verbs(KEY) == Verbs(paused={"m1"})

    assert await store.control(KEY, resume(verb_id="r2", lifts="p2")) == APPLIED
    assert await store.verbs(KEY) == Verbs()
    await store.begin(OWNER, KEY, entry(1))


async def test_a_resume_that_names_none_lifts_all(store: StateStore) -> None:
    await place(store, entry(1))
    await store.control(KEY, pause(verb_id="p1"))
    await store.control(KEY, pause(verb_id="p2"))

    assert await store.control(KEY, resume()) == APPLIED
    assert await store.verbs(KEY) == Verbs()
    # but not those that come after it
    assert await store.control(KEY, pause(verb_id="p3")) == APPLIED


async def test_a_pause_that_was_lifted_before_it_came_is_stale(store: StateStore) -> None:
    await place(store, entry(1))

    assert await store.control(KEY, resume(lifts="p1")) == NOT_FOUND
    assert await store.control(KEY, pause(verb_id="p1")) == STALE
    assert await store.verbs(KEY) == Verbs()


async def test_a_resume_of_what_is_not_paused_is_not_found(store: StateStore) -> None:
    await place(store, entry(1))
    await store.control(KEY, pause(verb_id="p1"))

    assert await store.control(KEY, resume("m2", "r1")) == NOT_FOUND
    assert await store.control(KEY, resume("m1", "r2", lifts="p2")) == NOT_FOUND
    assert await store.verbs(KEY) == Verbs(paused={"m1"})


@pytest.mark.parametrize("kind", [VERB_CANCEL, VERB_KILL, VERB_PAUSE, VERB_RESUME], ids=Verb.Name)
async def test_every_verb_comes_too_late_for_a_copy_of_what_is_settled(store: StateStore, kind: Verb.ValueType) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    await store.retry(OWNER, KEY, replace(entry(2, "m1"), attempts=1), b"")
    before = await seen(store)

    assert await store.control(KEY, verb(kind)) == TOO_LATE

    assert await seen(store) == before


async def test_a_resume_of_what_is_settled_comes_too_late(store: StateStore) -> None:
    await begin(store, entry(1))
    await store.control(KEY, pause())
    await store.commit(OWNER, commit(entry(1), record(DEAD)))

    assert await store.control(KEY, resume()) == TOO_LATE


async def test_a_repeated_resume_lifts_no_later_pause(store: StateStore) -> None:
    await place(store, entry(1))
    await store.control(KEY, pause(verb_id="p1"))
    await store.control(KEY, resume())
    await store.control(KEY, pause(verb_id="p2"))

    assert await store.control(KEY, resume()) == APPLIED
    assert await store.verbs(KEY) == Verbs(paused={"m1"})


# --- KILL


async def test_a_kill_stays_a_kill(store: StateStore) -> None:
    await begin(store, entry(1))
    assert await store.control(KEY, verb(VERB_KILL, verb_id="k")) == APPLIED
    assert await store.control(KEY, cancel(verb_id="c")) == APPLIED

    assert await store.verbs(KEY) == Verbs({"m1"}, {"m1"})
    with pytest.raises(CancelRecorded) as refused:
        await store.commit(OWNER, commit(entry(1), record()))
    assert refused.value.kill


async def test_a_cancel_lets_compensations_pass_and_a_kill_does_not(store: StateStore) -> None:
    await begin(store, entry(1))
    await store.control(KEY, cancel(verb_id="c"))
    with pytest.raises(CancelRecorded) as refused:
        await store.journal(OWNER, KEY, attempt(entry(1)), {"next": b""}, starts=True)
    assert not refused.value.kill
    await store.journal(OWNER, KEY, attempt(entry(1)), {"undo 1": b""}, starts=True, compensates=True)

    await store.control(KEY, verb(VERB_KILL, verb_id="k"))
    with pytest.raises(CancelRecorded) as refused:
        await store.journal(OWNER, KEY, attempt(entry(1)), {"undo 2": b""}, starts=True, compensates=True)

    assert refused.value.kill
    await store.journal(OWNER, KEY, attempt(entry(1)), {"undone 1": b""}, starts=False)
    assert set((await store.begin(OWNER, KEY, entry(1))).journal) == {"tool", "undo 1", "undone 1"}


async def test_a_pause_does_not_stop_a_compensation(store: StateStore) -> None:
    await begin(store, entry(1))
    await store.control(KEY, pause())
    await store.control(KEY, cancel())

    await store.journal(OWNER, KEY, attempt(entry(1)), {"undo": b""}, starts=True, compensates=True)

    await store.commit(OWNER, commit(entry(1), record(CANCELLED)))
    with pytest.raises(VersionConflict):
        await store.journal(OWNER, KEY, attempt(entry(1)), {"late": b""}, starts=True, compensates=True)


@pytest.mark.parametrize("how", ["waits", "suspended"])
async def test_a_killed_message_without_a_journal_ends_where_it_waits(store: StateStore, how: str) -> None:
    await place(store, entry(1))
    if how == "suspended":
        await store.begin(OWNER, KEY, entry(1))
        await store.control(KEY, pause())
        assert await suspend(store, entry(1))

    assert await store.control(KEY, verb(VERB_KILL)) == APPLIED

    assert await store.record(KEY, "m1") == record(CANCELLED, "m1", b"by v1")
    assert [waits.skip for waits in await inbox(store)] == [True]


# --- the attempt that a verb is for


@pytest.mark.parametrize("kind", [VERB_CANCEL, VERB_KILL, VERB_PAUSE, VERB_RESUME], ids=Verb.Name)
async def test_a_verb_for_another_attempt_is_stale(store: StateStore, kind: Verb.ValueType) -> None:
    await begin(store, entry(1))
    before = await seen(store)

    for index in (1, 2):
        assert await store.control(KEY, replace(verb(kind, verb_id=f"v{index}"), attempt=index)) == STALE

    assert await seen(store) == before
    if kind != VERB_RESUME:
        assert await store.control(KEY, replace(verb(kind, verb_id="v0"), attempt=0)) == APPLIED


async def test_a_cancel_for_another_attempt_settles_nothing_where_it_waits(store: StateStore) -> None:
    await place(store, entry(1))
    before = await seen(store)

    assert await store.control(KEY, replace(cancel(), attempt=1)) == STALE
    assert await seen(store) == before


async def test_what_runs_under_a_mark_is_in_the_attempt_that_it_counts(store: StateStore) -> None:
    await place(store, replace(entry(1), running=MARK, attempts=3))

    assert await store.control(KEY, replace(pause(verb_id="p3"), attempt=3)) == STALE
    assert await store.control(KEY, replace(pause(verb_id="p2"), attempt=2)) == APPLIED


async def test_what_is_settled_is_in_no_attempt(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))

    assert await store.control(KEY, replace(cancel(), attempt=7)) == TOO_LATE


async def test_what_waits_after_a_failure_is_in_its_next_attempt(store: StateStore) -> None:
    await place(store, entry(1))
    await fail(store, entry(1))

    assert await store.control(KEY, replace(pause(verb_id="p0"), attempt=0)) == STALE
    assert await store.control(KEY, replace(pause(verb_id="p1"), attempt=1)) == APPLIED


async def test_what_waits_for_resume_is_in_the_attempt_that_ended(store: StateStore) -> None:
    await begin(store, entry(1))
    await store.control(KEY, pause(verb_id="p"))
    await suspend(store, entry(1))

    assert await store.control(KEY, replace(cancel(verb_id="c1"), attempt=1)) == STALE
    assert await store.control(KEY, replace(cancel(verb_id="c0"), attempt=0)) == APPLIED


async def test_what_nobody_knows_is_in_its_first_attempt(store: StateStore) -> None:
    assert await store.control(KEY, replace(cancel(verb_id="c1"), attempt=1)) == STALE
    assert await store.control(KEY, replace(cancel(verb_id="c0"), attempt=0)) == PENDING


# --- answering only


@pytest.mark.parametrize("kind", [VERB_CANCEL, VERB_KILL, VERB_PAUSE], ids=Verb.Name)
async def test_a_dry_run_answers_and_changes_nothing(store: StateStore, kind: Verb.ValueType) -> None:
    await place(store, entry(1))
    await store.commit(OWNER, commit(entry(1, "m2", stream="other"), record()))
    before = await seen(store, ids=("m1", "m2", "m3"))

    answers = [await store.control(KEY, replace(verb(kind, id_), dry_run=True)) for id_ in ("m1", "m2", "m3")]

    assert answers == [APPLIED, TOO_LATE, PENDING]
    assert await seen(store, ids=("m1", "m2", "m3")) == before
    assert await store.control(KEY, verb(kind, "m3")) == PENDING
    assert (await store.claim(OWNER)).verbs == [KEY]


async def test_a_dry_run_on_a_session_that_nobody_knows_leaves_none(store: StateStore) -> None:
    await store.control(KEY, replace(cancel(), dry_run=True))

    assert await store.claim(OWNER) == Claimed([], [])


# --- who is told, and what is listed


async def test_a_claim_names_sessions_with_a_verb_not_obeyed(store: StateStore) -> None:
    await store.control(KEY, cancel("m1"))
    await store.control(replace(KEY, session="bob"), pause("m1"))

    assert sorted(key.session for key in (await store.claim(OWNER)).verbs) == ["ada", "bob"]

    assert await store.put(OWNER, KEY, entry(1), b"") is Placed.SKIPPED
    assert await store.claim(OWNER) == Claimed([KEY], [replace(KEY, session="bob")])


async def test_a_resume_is_nothing_to_obey(store: StateStore) -> None:
    await place(store, entry(1))
    await store.control(KEY, pause())
    await store.control(KEY, resume())

    assert await store.claim(OWNER) == Claimed([KEY], [])


async def test_a_paused_message_is_obeyed_once_its_session_rests(store: StateStore) -> None:
    await begin(store, entry(1))
    await store.control(KEY, pause(verb_id="p1"))
    assert await store.claim(OWNER) == Claimed([KEY], [KEY])

    assert await suspend(store, entry(1))
    assert await store.claim(OWNER) == Claimed([], [])

    await store.control(KEY, pause(verb_id="p2"))
    assert await store.claim(OWNER) == Claimed([KEY], [KEY])


async def test_messages_are_listed_with_where_they_stand(store: StateStore) -> None:
    await place(store, entry(1), entry(2), replace(entry(3), running=MARK), replace(entry(4), skip=True))
    await store.control(KEY, pause("m2"))
    await store.commit(OWNER, commit(entry(1, "m5", stream="other"), record(DONE)))
    # What was paused and is cancelled goes on, to what takes it back.
    await store.journal(OWNER, KEY, attempt(entry(3)), {"a": b""}, starts=False)
    await store.control(KEY, pause("m3", "p3"))
    await store.control(KEY, cancel("m3", "c3"))

    listed = await store.messages(0, "", None, 10)

    waits = {entry.number: entry for entry in await inbox(store)}
    assert listed == [
        (KEY, waits[entry(1).number], FATE_WAITING),
        (KEY, waits[entry(2).number], FATE_PAUSED),
        (KEY, waits[entry(3).number], FATE_WAITING),
    ]


async def test_messages_come_in_pages_by_path_and_id(store: StateStore) -> None:
    for name in ("b", "a", "c"):
        for sequence in (2, 1):
            await store.put(OWNER, replace(KEY, session=name), entry(sequence), b"")
    await store.put(OWNER, replace(KEY, session="a", agent="other"), entry(1), b"")
    clerks = KEY.path.removesuffix("ada")

    page, after = [], None
    while found := await store.messages(0, clerks, after, 4):
        page += [(key.session, entry.message_id) for key, entry, _ in found]
        after = (found[-1][0].path, found[-1][1].message_id)

    assert page == [(name, id_) for name in "abc" for id_ in ("m1", "m2")]
    assert len(await store.messages(0, "", None, 100)) == 7
    assert await store.messages(1, "", None, 100) == []
