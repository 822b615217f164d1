"""Session state that lives as long as the process: for tests, and for embedding where durability is not wanted."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.clock import Clock, SystemClock
from troupe.dataplane.state import promises, rules, schedule, verbs
from troupe.dataplane.state.control import Control, Promise, Settlement
from troupe.dataplane.state.memory_rows import Stream, Talk
from troupe.dataplane.state.memory_session import Session
from troupe.dataplane.state.port import Begun, Claimed, Due, Placed, Resting, TurnCommit
from troupe.dataplane.state.rules import Suspending
from troupe.dataplane.state.session import (
    RECORD_KEPT,
    Attempt,
    Backlog,
    Entry,
    Loaded,
    Mark,
    Owner,
    Record,
    SessionSummary,
    Verbs,
)
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer
from troupe.v1.promise_pb2 import SettlementAnswer
from troupe.v1.turn_pb2 import Fate


class MemoryStateStore:
    """See `troupe.dataplane.state.port.StateStore`. `clock` is the store's own."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._shards = 0
        self._fences: dict[int, tuple[int, str]] = {}
        self._sessions: dict[SessionKey, Session] = {}
        self._by_shard: defaultdict[int, dict[SessionKey, None]] = defaultdict(dict)
        # Of all inboxes of a shard: what waits, and the bytes of its envelopes.
        self._messages: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()

    async def declare(self, shards: int) -> None:
        if self._shards not in (0, shards):
            raise rules.shards_changed(self._shards, shards)
        self._shards = shards

    async def claim(self, owner: Owner) -> Claimed:
        with self._carried_out(owner):
            sessions = self._of(owner.shard)
            bound = [key for key, session in sessions.items() if session.all_bound() != Verbs() and not session.rests]
            return Claimed([key for key, session in sessions.items() if session.is_due], bound)

    async def due(self, owner: Owner, busy: Collection[SessionKey] = ()) -> Due:
        with self._carried_out(owner):
            now, sessions = self._clock.now(), self._of(owner.shard)
            due = sorted(item for item in _schedule(sessions) if item[0] <= now)
            changed: set[SessionKey] = set()
            for _, path, kind, stream, sequence in due[: schedule.DUE_AT_ONCE]:
                key = SessionKey.parse(path)
                with self._counted(sessions[key]) as session:
                    match kind:
                        case "message":
                            did = session.enter(Number(stream, sequence), busy=key in busy, now=now)
                        case "reminder":
                            did = session.remind(stream, now)
                        case _:
                            session.end([promises.expired(session.promises[stream])])
                            did = True
                if did:
                    changed.add(key)
            following = min((item[0] for item in _schedule(sessions)), default=None)
            return Due(list(changed), None if following is None else max(0.0, following - now))

    async def load(self, key: SessionKey) -> Loaded:
        return self._find(key).loaded()

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool = False) -> Placed:
        with self._owned(owner, key) as session:
            waits, scheduled = session.inbox.get(entry.number), entry.number in session.scheduled
            now = self._clock.now()
            placed = session.place(entry, envelope, scheduled=scheduled, busy=busy, now=now)
            if placed is Placed.PRESENT and waits is not None and rules.marks(entry, waits):
                session.inbox[entry.number] = replace(waits, running=entry.running)
            return placed

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        with self._owned(owner, key) as session:
            found = session.inbox.get(entry.number)
            waits = rules.started(owner, entry, found, session.bound(found.message_id if found else ""))
            session.inbox[entry.number] = waits
            session.rests = session.rests and waits == found
            journal = session.journals.get(waits.message_id, {})
            steps = {step: content for (digest, step), content in journal.items() if digest == waits.digest}
            made = session.promises_of(waits.message_id)
            return Begun(session.envelopes[entry.number], steps, made, waits.skip)

    async def take_over(self, owner: Owner, key: SessionKey, number: Number, mark: Mark) -> bool:
        with self._owned(owner, key) as session:
            taken = rules.taken_over(session.inbox.get(number), mark)
            if taken is not None:
                session.insert(taken, session.envelopes[number], at_head=True)
                session.rests = False
            return taken is not None

    async def journal(
        self,
        owner: Owner,
        key: SessionKey,
        attempt: Attempt,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        with self._owned(owner, key, turn=attempt.number) as session:
            message_id = attempt.message_id
            found = session.found(attempt.number, message_id)
            if rules.may_keep(attempt, found, starts=starts, compensates=compensates):
                kept = {(attempt.digest, step): content for step, content in steps.items()}
                if kept:
                    session.journals[message_id] = {**kept, **session.journals.get(message_id, {})}
                session.make(promises)

    async def suspend(
        self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, runs: bool = False
    ) -> bool:
        with self._owned(owner, key, turn=entry.number) as session:
            pending = all(promises.is_open(session.promises.get(id_)) for id_ in entry.awaits)
            found = session.found(entry.number, entry.message_id)
            match rules.suspending(entry, found, pending=pending, runs=runs):
                case Suspending.GOES_ON:
                    return False
                case Suspending.RUNS_ON:
                    waits = session.inbox[entry.number]
                    session.inbox[entry.number] = rules.runs_on(waits, owner.mark)
                    session.rests = False
                    return False
                case Suspending.PLACED:
                    self._put_first(session, rules.suspended(entry), envelope)
                    session.rests = True
                case Suspending.RESTS:
                    session.rests = True
            return True

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        with self._owned(owner, key, turn=entry.number) as session:
            if rules.puts_back(entry, session.found(entry.number, entry.message_id)):
                self._put_first(session, replace(entry, running=None), envelope)
                session.rests = False

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        with self._owned(owner, commit.key, turn=commit.number) as session:
            others = [session.found(other.number, other.message_id) for other in commit.companions]
            found = session.found(commit.number, commit.message_id)
            positions = rules.settled(commit, found, others)
            if positions is None:
                return session.talk.version
            done = commit.record is not None and commit.record.fate == turn_pb2.FATE_DONE
            settled = [(commit.number, commit.message_id, commit.record)]
            if done:
                settled += [(other.number, other.message_id, other.record) for other in commit.companions]
            for number, message_id, record in settled:
                session.settle_number(number, commit.now, positions[number.stream])
                if record is not None:
                    session.settle(message_id, record, commit.now)
                session.came(message_id, number)
            if done:
                session.save(commit)
            session.rests = False
            return session.talk.version

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        with self._owned(owner, key) as session:
            run = range(number.sequence, number.sequence + count)
            waits = any(other.stream == number.stream and other.sequence in run for other in session.inbox)
            position = rules.passed_over(session.position(number.stream), number, count, waits=waits)
            if position is not None:
                session.streams[number.stream] = Stream(position, now)
                session.rests = False
            return position is not None

    async def strike(self, owner: Owner, key: SessionKey, numbers: Sequence[Number]) -> None:
        with self._owned(owner, key) as session:
            for number in numbers:
                session.outbox.pop(number, None)

    async def backlog(self, shard: int) -> Backlog:
        return Backlog(self._messages[shard], self._bytes[shard])

    async def session_backlog(self, key: SessionKey) -> Backlog:
        session = self._find(key)
        return Backlog(len(session.inbox), session.size)

    async def redrive(self, key: SessionKey, message_id: str, number: Number) -> None:
        session = self._find(key)
        if rules.is_awaited(session.position(number.stream), number, session.fate(message_id)):
            session.await_(message_id, number)

    async def purge(self, key: SessionKey, message_id: str) -> None:
        session = self._find(key)
        live, awaited = bool(session.waiting(message_id)), session.awaits(message_id)
        if rules.is_purged(session.fate(message_id), awaited=awaited, live=live):
            session.records[message_id] = replace(session.records[message_id], stays=False)

    async def record(self, key: SessionKey, message_id: str) -> Record | None:
        session = self._find(key)
        if (kept := session.records.get(message_id)) is None:
            return None
        live, awaited = bool(session.waiting(message_id)), session.awaits(message_id)
        return replace(kept.record, redriven=rules.is_redriven(kept.record.fate, awaited=awaited, live=live))

    async def waiting(self, key: SessionKey, message_id: str) -> Entry | None:
        session = self._find(key)
        return next(iter(session.waiting(message_id)), None) or session.on_schedule(message_id)

    async def control(self, key: SessionKey, control: Control) -> VerbAnswer.ValueType:
        session = self._find(key)
        seen = session.verbs.get(control.message_id, {}).get(control.verb_id)
        if seen is not None:
            return seen.answer
        found = session.standing(control)
        answer = verbs.verb_answer(control, found)
        if control.dry_run:
            return answer
        now = self._clock.now()
        self._hold(key, session, key.shard(self._shards))
        session.record_verb(control, answer, found, now)
        if control.restart is not None and answer == agent_pb2.VERB_ANSWER_APPLIED:
            session.restart(control.message_id, control.restart, now)
        if (digest := verbs.ends_at_once(control, answer, found)) is not None:
            session.settle(control.message_id, Record(turn_pb2.FATE_CANCELLED, control.status, digest), now)
        return answer

    async def resting(self, key: SessionKey, message_id: str) -> Resting | None:
        session = self._find(key)
        waits, kept = next(iter(session.waiting(message_id)), None), session.records.get(message_id)
        if waits is None and (kept is None or kept.record.fate not in rules.REDRIVABLE or kept.awaits):
            return None
        digest = waits.digest if waits else kept.record.digest if kept else b""
        journal = session.journals.get(message_id, {})
        return Resting(
            digest,
            session.envelopes[waits.number] if waits else b"",
            {step: content for (of, step), content in journal.items() if of == digest},
            len(journal),
            session.promises_of(message_id),
            purged=waits is None and session.purged(message_id),
        )

    async def verbs(self, key: SessionKey) -> Verbs:
        return self._find(key).all_bound()

    async def settle_promise(self, key: SessionKey, settlement: Settlement) -> SettlementAnswer.ValueType:
        session = self._find(key)
        promise = session.promises[settlement.promise_id]
        answer, settled = promises.settled(promise, settlement, self._clock.now())
        if settled != promise:
            session.end([settled])
        return answer

    async def promise(self, key: SessionKey, promise_id: str) -> Promise | None:
        return self._find(key).promises.get(promise_id)

    async def promises(
        self, prefix: str, after: tuple[int, str, str] | None, limit: int, *, settled: bool = False
    ) -> Sequence[tuple[int, SessionKey, Promise]]:
        found = sorted(
            ((session.shard, key.path, promise.id), key, promise)
            for key, session in self._sessions.items()
            if key.path.startswith(prefix)
            for promise in session.promises.values()
            if (settled or promises.is_open(promise))
            and (session.shard, key.path, promise.id) > (after or (-1, "", ""))
        )
        return [(shard, key, promise) for (shard, _, _), key, promise in found[:limit]]

    async def messages(
        self, shard: int, prefix: str, after: tuple[str, str] | None, limit: int
    ) -> Sequence[tuple[SessionKey, Entry, Fate.ValueType]]:
        found = sorted(
            (
                (key, entry, fate)
                for key, session in self._of(shard).items()
                if key.path.startswith(prefix)
                for entry, fate in session.messages()
                if (key.path, entry.message_id) > (after or ("", ""))
            ),
            key=lambda each: (each[0].path, each[1].message_id),
        )
        return found[:limit]

    async def history(self, key: SessionKey, before: int | None, limit: int) -> Sequence[tuple[int, bytes]]:
        kept = reversed(self._find(key).talk.history)
        return [each for each in kept if before is None or each[0] < before][:limit]

    async def summary(self, key: SessionKey) -> SessionSummary | None:
        session = self._find(key)
        return session.summary(key) if session.talk.version else None

    async def summaries(
        self, prefix: str, after: tuple[int, str] | None, limit: int
    ) -> Sequence[tuple[int, SessionSummary]]:
        found = sorted(
            ((session.shard, key.path), key)
            for key, session in self._sessions.items()
            if session.talk.version and key.path.startswith(prefix) and (session.shard, key.path) > (after or (-1, ""))
        )
        return [(shard, self._sessions[key].summary(key)) for (shard, _), key in found[:limit]]

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        with self._owned(owner, key) as session:
            session.talk = Talk()
            session.reminders = {}
            for message_id, record in cancelled.items():
                if not session.is_past(message_id):
                    session.settle(message_id, record, now)
            session.rests = False

    async def forget(self, now: float) -> None:
        for key, session in list(self._sessions.items()):
            session.forget(now - RECORD_KEPT, now)
            if session == Session(session.shard):
                del self._sessions[key], self._by_shard[session.shard][key]

    @contextlib.contextmanager
    def _carried_out(self, owner: Owner, turn: Entry | None = None) -> Iterator[None]:
        """What is inside is a script of the owner's: a refused one leaves the fence as it is. `turn`: what waits under
        the number of the turn that writes."""
        raises = rules.raises_fence(owner, self._fences.get(owner.shard, rules.UNCLAIMED), turn)
        yield
        if raises:
            self._fences[owner.shard] = (owner.epoch, owner.instance)

    @contextlib.contextmanager
    def _owned(self, owner: Owner, key: SessionKey, *, turn: Number | None = None) -> Iterator[Session]:
        session = self._find(key)
        with self._carried_out(owner, None if turn is None else session.inbox.get(turn)):
            self._hold(key, session, owner.shard)
            with self._counted(session):
                yield session

    @contextlib.contextmanager
    def _counted(self, session: Session) -> Iterator[Session]:
        messages, size = len(session.inbox), session.size
        yield session
        self._messages[session.shard] += len(session.inbox) - messages
        self._bytes[session.shard] += session.size - size
        session.rests = session.rests and bool(session.inbox)

    @staticmethod
    def _put_first(session: Session, entry: Entry, envelope: bytes) -> None:
        """At the head, with the envelope that it has where it waits already."""
        session.insert(entry, session.envelopes.get(entry.number, envelope), at_head=True)
        session.comes_again(entry)

    def _find(self, key: SessionKey) -> Session:
        return self._sessions.get(key) or Session()

    def _of(self, shard: int) -> dict[SessionKey, Session]:
        return {key: self._sessions[key] for key in self._by_shard[shard] if key in self._sessions}

    def _hold(self, key: SessionKey, session: Session, shard: int) -> None:
        """The session is kept from now on, as one of this shard."""
        if self._sessions.setdefault(key, session).shard != shard:
            session.shard = shard
            self._by_shard[shard][key] = None


def _schedule(sessions: Mapping[SessionKey, Session]) -> Iterator[tuple[float, str, str, str, int]]:
    """When, of which session, what it is, and its name: the number of a message, a reminder's name, a promise's id."""
    for key, session in sessions.items():
        for number, (entry, _) in session.scheduled.items():
            yield entry.due, key.path, "message", number.stream, number.sequence
        for name, kept in session.reminders.items():
            if not kept.held:
                yield kept.reminder.due, key.path, "reminder", name, 0
        for promise in session.promises.values():
            if promises.is_open(promise) and promise.expires:
                yield promise.expires, key.path, "promise", promise.id, 0
