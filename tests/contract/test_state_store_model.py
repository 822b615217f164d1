"""Random scripts on memory and a durable store side by side: the same answers, the same sessions, and what must never
happen."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import redis_server
from support.control_scripts import ControlScripts, askers, asking, ids, indexes, keys, later, rarely
from support.moved_clock import MovedClock
from support.side_by_side import KEYS, Asker
from support.state_stores import (
    CANCELLED,
    DEAD,
    DONE,
    DURABLE,
    EXPIRED,
    NOW,
    REJECTED,
    SKIPPED,
    MovedTime,
    Seen,
    ServerTime,
    attempt,
    opening,
    outgoing,
    record,
)

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Place, Position
from troupe.dataplane.state.port import Claimed, Companion, Placed, StateStore, TurnCommit
from troupe.dataplane.state.session import RETENTION, Backlog, Entry, Mark, begun
from troupe.v1.turn_pb2 import Fate

DAY = 24 * 3600.0

streams = st.sampled_from("aab")
fates = st.sampled_from([DONE] * 5 + [CANCELLED, DEAD, EXPIRED, SKIPPED])
payloads = st.sampled_from([b"", b"", b"", b"other"])
steps = st.sets(st.sampled_from("12"), max_size=2)


class Scripts(ControlScripts):
    """Every script, and what must never happen."""

    # --- scripts

    @rule(asker=askers)
    def claim(self, asker: Asker) -> None:
        owner = self.owner(asker)
        due = self.run(lambda store: _sorted(store.claim(owner)), owner)
        if isinstance(due, list):
            busy = [key for key in KEYS if self.loaded(key).inbox or self.loaded(key).outbox]
            assert set(due) <= {key.path for key in busy}

    @rule(
        asker=askers,
        key=keys,
        stream=streams,
        ahead=st.sampled_from([0, 0, 0, 1, 2, -1]),
        id_=ids,
        payload=payloads,
        how=st.sampled_from(["", "", "", "skip", "running", "redriven", "later", "later", "refuses", "refuses later"]),
        after=st.sampled_from([60.0, 60.0, 7_000.0, -60.0]),
        busy=rarely,
    )
    def put(
        self,
        asker: Asker,
        key: SessionKey,
        stream: str,
        ahead: int,
        id_: str,
        payload: bytes,
        how: str,
        after: float,
        busy: bool,
    ) -> None:
        owner = self.owner(asker)
        number = self.next(key, stream, ahead)
        entry = Entry(number, id_, id_.encode() + payload, self.now, skip=how == "skip", redriven=how == "redriven")
        if how == "running":
            entry = replace(entry, running=owner.mark, attempts=1)
        if how.endswith("later"):
            entry = replace(entry, due=self.comes(after), attributes=(("stream", stream),))
        if how.startswith("refuses"):
            entry = replace(entry, rejection=b"busy")
        body = f"{number} {id_}".encode()
        before = self.sessions[key]
        answer = self.run(lambda store: store.put(owner, key, entry, body, busy=busy), owner, body=body)
        if isinstance(answer, Placed):
            assert (answer is Placed.SETTLED) == (number in self.past[key].settled)
            self.past[key].scheduled.setdefault(number, len(body))
            rejected = self.sessions[key].records[id_]
            if rejected is not None and rejected.fate == REJECTED and before.records[id_] is None:
                assert busy or any(not waits.skip for waits in before.loaded.inbox)

    @precondition(lambda self: any(session.loaded.inbox for session in self.sessions.values()))
    @rule(asker=askers, key=keys, index=indexes, ahead=later)
    def mark(self, asker: Asker, key: SessionKey, index: int, ahead: int) -> None:
        """A turn that runs is written down."""
        entry = self.waiting(key, index)
        owner = self.owner(asker, entry)
        entry = replace(entry, running=owner.mark, attempts=max(0, entry.attempts + ahead))
        self.run(lambda store: store.put(owner, key, entry, b"marked"), owner, body=b"marked")

    @rule(asker=askers, key=keys, index=indexes, stale=st.booleans())
    def begin(self, asker: Asker, key: SessionKey, index: int, stale: bool) -> None:
        entry = self.waiting(key, index)
        owner = self.owner(asker, entry)
        entry = replace(entry, attempts=0, starts=0) if stale else entry
        self.run(lambda store: store.begin(owner, key, entry), owner)

    @rule(asker=askers, key=keys, index=indexes, mark=st.sampled_from([None, None, None, Mark(1, "worker-1")]))
    def take_over(self, asker: Asker, key: SessionKey, index: int, mark: Mark | None) -> None:
        entry = self.waiting(key, index)
        owner = self.owner(asker, entry)
        marked = [other for other in self.loaded(key).inbox if other.running]
        entry = marked[index % len(marked)] if marked else self.standing(key, entry.number) or entry
        mark = mark or entry.running or Mark(9, "nobody")
        taken = self.run(lambda store: store.take_over(owner, key, entry.number, mark), owner, same_answer=False)
        if taken is True:
            assert self.loaded(key).inbox[0] == replace(entry, running=None, starts=max(1, entry.starts))

    @rule(
        asker=askers,
        key=keys,
        index=indexes,
        ahead=later,
        payload=payloads,
        steps=steps,
        starts=st.booleans(),
        compensates=rarely,
        asks=asking,
    )
    def journal(
        self,
        asker: Asker,
        key: SessionKey,
        index: int,
        ahead: int,
        payload: bytes,
        steps: set[str],
        starts: bool,
        compensates: bool,
        asks: set[str],
    ) -> None:
        entry = self.waiting(key, index)
        owner = self.owner(asker, entry)
        entry = replace(entry, digest=entry.message_id.encode() + payload)
        tried = attempt(entry, max(0, entry.attempts - 1 + ahead))
        kept = dict.fromkeys(steps, entry.digest)
        self.run_turn(
            lambda store: store.journal(
                owner, key, tried, kept, starts=starts, compensates=compensates, promises=self.asked(tried, asks)
            ),
            (owner, key, entry.number, tried.index + 1),
        )

    @rule(asker=askers, key=keys, index=indexes, failed=st.integers(0, 1), ahead=later)
    def retry(self, asker: Asker, key: SessionKey, index: int, failed: int, ahead: int) -> None:
        entry = self.waiting(key, index)
        owner = self.owner(asker, entry)
        entry = replace(
            entry if entry.starts or entry.running else begun(entry),
            skip=False,
            starts=0,
            running=None,
            failures=entry.failures + failed,
            not_before=self.now + 1,
        )
        entry = replace(entry, attempts=max(1, entry.attempts + ahead))
        self.run_turn(
            lambda store: store.retry(owner, key, entry, b"retried"),
            (owner, key, entry.number, entry.attempts),
            body=b"retried",
        )

    @rule(
        asker=askers,
        key=keys,
        index=indexes,
        ahead_of=st.sampled_from([None, None, None, None, 0, 1, -1]),
        id_=st.one_of(st.none(), st.none(), st.none(), ids),
        fate=st.one_of(fates, fates, fates, st.none()),
        ahead=st.sampled_from([0, 0, 0, 0, 1, -1]),
        tries=later,
        changes=st.booleans(),
        sends=st.sampled_from([["bob", "eve"], ["eve", "eve"], ["bob"], []]),
        batch=st.sampled_from([0, 0, 0, 1, 2]),
        snapshot=rarely,
        reminds=st.sampled_from([(), (), (), ("tea", 60.0, 0.0), ("tea", -60.0, 50.0), ("walk", 7_000.0, 500.0)]),
        forgets=rarely,
    )
    def commit(
        self,
        asker: Asker,
        key: SessionKey,
        index: int,
        ahead_of: int | None,
        id_: str | None,
        fate: Fate.ValueType | None,
        ahead: int,
        tries: int,
        changes: bool,
        sends: list[str],
        batch: int,
        snapshot: bool,
        reminds: tuple[str, float, float] | tuple[()],
        forgets: bool,
    ) -> None:
        before = self.loaded(key)
        entry = self.waiting(key, index)
        owner = self.owner(asker, entry)
        number = entry.number if ahead_of is None else self.next(key, "a", ahead_of)
        id_ = id_ or entry.message_id
        sent = {target: last.number.sequence for target, last in before.sent.items()}
        outbox = []
        for target in sends:
            sent[target] = sent.get(target, 0) + 1
            outbox.append(outgoing(sent[target], target, stream=f"to {target}"))
        commit = TurnCommit(
            key=key,
            number=number,
            message_id=id_,
            record=None if fate is None else record(fate, id_, status=f"{number}".encode()),
            version=before.version + ahead,
            state=f"{number} {id_}".encode() if changes else None,
            history=f"{number} {id_}".encode() if changes else None,
            usage=b"used" if changes else None,
            attempt=max(0, entry.attempts - 1 + tries),
            outbox=outbox,
            companions=[
                Companion(other.number, other.message_id, max(0, other.attempts - 1), record(DONE, other.message_id))
                for other in [other for other in before.inbox if other.number != number][:batch]
            ],
            snapshot=b"up to here" if snapshot else None,
            remind=self.reminders(before.version, *reminds) if reminds else (),
            forget_reminders=["tea"] if forgets else [],
            retention=DAY if snapshot else RETENTION,
            now=self.now,
        )
        answer = self.run_turn(lambda store: store.commit(owner, commit), (owner, key, number, commit.attempt + 1))
        after, past = self.loaded(key), self.past[key]
        if after.version != before.version:
            assert answer == after.version == before.version + 1
            told = [commit.history] if commit.history is not None else []
            assert after.history == ([] if snapshot else [*before.history, *told])
            assert [delta for _, delta in self.sessions[key].history[: len(told)]] == told
            assert not {id_, *(other.message_id for other in commit.companions)} & before.verbs.paused
            assert after.outbox == [*before.outbox, *outbox]
            assert {target: last.number.sequence for target, last in after.sent.items()} == sent
            assert number not in past.took_effect
            assert id_ not in past.done, "one message had two effects"
            for other in commit.companions:
                assert other.number not in past.took_effect
                assert other.message_id not in past.done, "one message had two effects"
            past.took_effect |= {number, *(other.number for other in commit.companions)}
            past.done |= {id_, *(other.message_id for other in commit.companions)}
        else:
            assert (after.outbox, after.sent) == (before.outbox, before.sent)

    @rule(asker=askers, key=keys, struck=st.sets(st.integers(0, 3), max_size=2))
    def strike(self, asker: Asker, key: SessionKey, struck: set[int]) -> None:
        owner = self.owner(asker)
        before = self.loaded(key).outbox
        struck_ = [message.number for index, message in enumerate(before) if index in struck]
        numbers = [*struck_, Number("to bob", 99)]
        answer = self.run(lambda store: store.strike(owner, key, numbers), owner)
        if answer is None:
            assert self.loaded(key).outbox == [message for message in before if message.number not in struck_]

    @rule(asker=askers, key=keys, stream=streams, ahead=st.sampled_from([1, 1, 1, 0, 2]), count=indexes)
    def pass_over(self, asker: Asker, key: SessionKey, stream: str, ahead: int, count: int) -> None:
        owner = self.owner(asker)
        before = self.loaded(key)
        first = before.positions.get(stream, Position()).settled + ahead
        passed = self.run(
            lambda store: store.pass_over(owner, key, Number(stream, first), count, self.now),
            owner,
            same_answer=False,
        )
        if isinstance(passed, bool):
            run = {Number(stream, first + each) for each in range(count)}
            after = self.loaded(key).positions.get(stream, Position())
            assert after.settled == first - ahead + (count if passed else 0)
            assert not passed or {each.sequence for each in run} <= after.gaps
            assert passed == (ahead == 1 and bool(run) and not run & {entry.number for entry in before.inbox})

    @rule(key=keys, id_=ids, stream=streams, ahead=st.sampled_from([0, 0, 1, -1]))
    def redrive(self, key: SessionKey, id_: str, stream: str, ahead: int) -> None:
        id_, number = self.dead(key, id_), self.next(key, stream, ahead)
        self.run(lambda store: store.redrive(key, id_, number))
        kept = self.sessions[key].records[id_]
        if kept is not None and kept.fate in (DEAD, EXPIRED) and number not in self.past[key].settled:
            assert kept.redriven

    @rule(key=keys, id_=ids)
    def purge(self, key: SessionKey, id_: str) -> None:
        id_ = self.dead(key, id_)
        self.run(lambda store: store.purge(key, id_))

    def dead(self, key: SessionKey, id_: str) -> str:
        """A message among the dead letters, if there is one."""
        records = self.sessions[key].records.items()
        return next((dead for dead, kept in records if kept is not None and kept.fate in (DEAD, EXPIRED)), id_)

    @rule(asker=askers, key=keys, index=indexes, id_=ids, seldom=rarely)
    def delete(self, asker: Asker, key: SessionKey, index: int, id_: str, seldom: bool) -> None:
        if not seldom:
            return
        owner = self.owner(asker)
        waiting = self.loaded(key).inbox[:index]
        named = {entry.message_id for entry in waiting if not entry.skip} | {self.dead(key, id_)}
        cancelled = {name: record(CANCELLED, name) for name in sorted(named)}
        self.run(lambda store: store.delete(owner, key, cancelled, self.now), owner)

    @rule(later=st.sampled_from([1.0, DAY / 3, 2 * DAY, 40 * DAY]), seldom=rarely)
    def forget(self, later: float, seldom: bool) -> None:
        if not seldom:
            return
        self.now += later
        self.run(lambda store: store.forget(self.now), forgets=True)
        for key, past in self.past.items():
            # A number, an id are new again when nothing of them is kept.
            session = self.sessions[key]
            past.settled = {number for number in past.settled if number.stream in session.loaded.positions}
            past.took_effect &= past.settled
            past.done = {id_ for id_ in past.done if session.records[id_] is not None}

    @rule()
    def open_again(self) -> None:
        async def opened() -> StateStore:
            await self.file.aclose()
            return await self.file.enter_async_context(opening(self.durable, self.directory, clock=self.time))

        self.stores = self.stores[0], self.runner.run(opened())
        assert self.see() == self.sessions

    # --- what must never happen

    @invariant()
    def what_is_settled_stays_settled(self) -> None:
        for key, session in getattr(self, "sessions", {}).items():
            past = self.past[key]
            now = {number for number in _ALL if _place(session, number) is Place.SETTLED}
            assert past.settled <= now
            past.settled = now

    @invariant()
    def the_inbox_holds_nothing_settled(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            waiting = [entry.number for entry in session.loaded.inbox]
            assert len(set(waiting)) == len(waiting)
            assert all(_place(session, number) is not Place.SETTLED for number in waiting)

    @invariant()
    def what_waits_live_was_not_settled_for_good(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            for entry in session.loaded.inbox:
                kept = session.records[entry.message_id]
                began = entry.running or entry.attempts or entry.starts
                again = entry.redriven and kept is not None and kept.fate in (DEAD, EXPIRED)
                assert entry.skip or began or again or kept is None

    @invariant()
    def what_comes_again_has_its_record(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            for entry in session.loaded.inbox:
                kept = session.records[entry.message_id]
                if entry.redriven and not entry.skip:
                    assert kept is not None
                    assert kept.redriven

    @invariant()
    def a_turn_begins_with_what_its_own_payload_did(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            for entry in session.loaded.inbox:
                begun = session.begun[entry.number]
                assert begun is None or set(begun.journal.values()) <= {entry.digest}

    @invariant()
    def what_waits_is_counted(self) -> None:
        for key, session in getattr(self, "sessions", {}).items():
            sizes = self.past[key].sizes
            assert session.backlog == Backlog(len(sizes), sum(sizes.values()))


_ALL = [Number(stream, sequence) for stream in "ab" for sequence in range(1, 30)]


def _place(session: Seen, number: Number) -> Place:
    return session.loaded.positions.get(number.stream, Position()).place(number.sequence)


async def _sorted(claimed: Awaitable[Claimed]) -> list[str]:
    return sorted(key.path for key in (await claimed).due)


SETTINGS = settings(max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def a_time(name: str, tmp_path: Path) -> Iterator[Callable[[], MovedTime]]:
    """Makes the clock of an example. It stands still: what comes of an example must not depend on how long it takes."""
    if name != "redis":
        yield lambda: MovedTime(NOW)
        return
    clock = MovedClock(tmp_path)
    with redis_server.running(tmp_path, clock.environment) as server:
        yield lambda: ServerTime(server, clock)


# For up to five minutes Hypothesis makes what it found smaller. A time limit that ends before hides the finding.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", DURABLE)
def test_memory_and_a_durable_store_are_the_same(name: str, a_time: Callable[[], MovedTime]) -> None:
    class Stores(Scripts):
        durable = name

        def __init__(self) -> None:
            self.time = a_time()
            super().__init__()

    run_state_machine_as_test(Stores, settings=SETTINGS)
