"""Session state that lives as long as the process: for tests, and for embedding where durability is not wanted."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.dataplane.state import rules
from troupe.dataplane.state.port import (
    RECENT,
    RECORD_KEPT,
    Attempt,
    Backlog,
    Begun,
    Entry,
    Loaded,
    Mark,
    Outgoing,
    Owner,
    Placed,
    Record,
    Sent,
    SessionSummary,
    TurnCommit,
)
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer


class MemoryStateStore:
    """See `troupe.dataplane.state.port.StateStore`."""

    def __init__(self) -> None:
        self._shards = 0
        self._fences: dict[int, tuple[int, str]] = {}
        self._sessions: dict[SessionKey, _Session] = {}
        # Of all inboxes of a shard: what waits, and the bytes of its envelopes.
        self._messages: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()

    async def declare(self, shards: int) -> None:
        if self._shards not in (0, shards):
            raise rules.shards_changed(self._shards, shards)
        self._shards = shards

    async def claim(self, owner: Owner) -> Sequence[SessionKey]:
        with self._carried_out(owner):
            return [key for key, session in self._sessions.items() if session.shard == owner.shard and session.is_due]

    async def load(self, key: SessionKey) -> Loaded:
        session = self._find(key)
        return Loaded(
            version=session.talk.version,
            state=session.talk.state,
            history=list(session.talk.history),
            positions={name: stream.position for name, stream in session.streams.items()},
            inbox=list(session.inbox.values()),
            recent=list(session.records)[:RECENT],
            cancelled=[id_ for id_ in session.verbs if session.tombstone(id_) and not session.is_final(id_)],
            journaled=frozenset(session.journals),
            outbox=list(session.outbox.values()),
            sent=dict(session.sent),
        )

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> Placed:
        with self._owned(owner, key) as session:
            tombstone = None if entry.message_id in session.journals else session.tombstone(entry.message_id)
            waits = session.inbox.get(entry.number)
            placed, record = rules.place(
                entry,
                session.position(entry.number.stream),
                waits=waits is not None,
                live=bool(session.waiting(entry.message_id)),
                fate=session.fate(entry.message_id),
                tombstone=tombstone.status if tombstone else None,
            )
            if placed in (Placed.NEW, Placed.SKIPPED):
                placing = replace(entry, skip=placed is Placed.SKIPPED)
                session.insert(placing, envelope, at_head=entry.running is not None)
                session.comes_again(placing)
            elif waits is not None and rules.marks(entry, waits):
                session.inbox[entry.number] = replace(waits, running=entry.running)
            if record is not None:
                session.settle(entry.message_id, record, entry.placed)
            return placed

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        with self._owned(owner, key) as session:
            waits = rules.started(owner, entry, session.inbox.get(entry.number))
            session.inbox[entry.number] = waits
            journal = session.journals.get(waits.message_id, {})
            steps = {step: content for (digest, step), content in journal.items() if digest == waits.digest}
            return Begun(session.envelopes[entry.number], steps)

    async def take_over(self, owner: Owner, key: SessionKey, number: Number, mark: Mark) -> bool:
        with self._owned(owner, key) as session:
            taken = rules.taken_over(session.inbox.get(number), mark)
            if taken is not None:
                session.insert(taken, session.envelopes[number], at_head=True)
            return taken is not None

    async def journal(
        self, owner: Owner, key: SessionKey, attempt: Attempt, steps: Mapping[str, bytes], *, starts: bool
    ) -> None:
        with self._owned(owner, key, turn=attempt.number) as session:
            message_id = attempt.message_id
            if rules.may_keep(attempt, session.found(attempt.number, message_id), starts=starts) and steps:
                kept = {(attempt.digest, step): content for step, content in steps.items()}
                session.journals[message_id] = {**kept, **session.journals.get(message_id, {})}

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        with self._owned(owner, key, turn=entry.number) as session:
            if rules.puts_back(entry, session.found(entry.number, entry.message_id)):
                body = session.envelopes.get(entry.number, envelope)
                session.insert(replace(entry, running=None), body, at_head=True)
                session.comes_again(entry)

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        with self._owned(owner, commit.key, turn=commit.number) as session:
            talk, record = session.talk, commit.record
            position = rules.settled(commit, session.found(commit.number, commit.message_id))
            if position is None:
                return talk.version
            session.streams[commit.number.stream] = _Stream(position, commit.now)
            session.remove(commit.number)
            if record is not None:
                session.settle(commit.message_id, record, commit.now)
            session.came(commit.message_id, commit.number)
            if record is not None and record.fate == turn_pb2.FATE_DONE:
                session.talk = _Talk(
                    version=talk.version + 1,
                    turns=talk.turns + 1,
                    state=talk.state if commit.state is None else commit.state,
                    usage=talk.usage if commit.usage is None else commit.usage,
                    created=talk.created if talk.version else commit.now,
                    updated=commit.now,
                    history=talk.history,
                )
                if commit.history is not None:
                    talk.history.append(commit.history)
                session.send(commit.outbox, commit.now)
            return session.talk.version

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        with self._owned(owner, key) as session:
            run = range(number.sequence, number.sequence + count)
            waits = any(other.stream == number.stream and other.sequence in run for other in session.inbox)
            position = rules.passed_over(session.position(number.stream), number, count, waits=waits)
            if position is not None:
                session.streams[number.stream] = _Stream(position, now)
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
        return next(iter(self._find(key).waiting(message_id)), None)

    async def cancel(
        self, key: SessionKey, message_id: str, verb_id: str, cancelled: Record, now: float
    ) -> VerbAnswer.ValueType:
        session = self._sessions.setdefault(key, _Session())
        verbs = session.verbs.setdefault(message_id, {})
        if verb_id in verbs:
            return verbs[verb_id].answer
        waiting = session.waiting(message_id)
        answer, at_once = rules.cancel_answer(
            waiting,
            session.fate(message_id),
            awaited=session.awaits(message_id),
            journaled=message_id in session.journals,
        )
        verbs[verb_id] = _Verb(answer, cancelled.status, now)
        if at_once:
            session.settle(message_id, replace(cancelled, digest=waiting[0].digest), now)
        return answer

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
            session.talk = _Talk()
            for message_id, record in cancelled.items():
                session.settle(message_id, record, now)

    async def forget(self, now: float, idle_since: float) -> None:
        for key, session in list(self._sessions.items()):
            session.forget(now - RECORD_KEPT, idle_since)
            if session == _Session(session.shard):
                del self._sessions[key]

    @contextlib.contextmanager
    def _carried_out(self, owner: Owner, turn: Entry | None = None) -> Iterator[None]:
        """What is inside is a script of the owner's: a refused one leaves the fence as it is. `turn`: what waits under
        the number of the turn that writes."""
        raises = rules.raises_fence(owner, self._fences.get(owner.shard, rules.UNCLAIMED), turn)
        yield
        if raises:
            self._fences[owner.shard] = (owner.epoch, owner.instance)

    @contextlib.contextmanager
    def _owned(self, owner: Owner, key: SessionKey, *, turn: Number | None = None) -> "Iterator[_Session]":
        session = self._find(key)
        with self._carried_out(owner, None if turn is None else session.inbox.get(turn)):
            session = self._sessions.setdefault(key, session)
            session.shard = owner.shard
            messages, size = len(session.inbox), session.size
            yield session
            self._messages[owner.shard] += len(session.inbox) - messages
            self._bytes[owner.shard] += session.size - size

    def _find(self, key: SessionKey) -> "_Session":
        return self._sessions.get(key) or _Session()


@dataclass(slots=True)
class _Talk:
    """What turns that end DONE change, and deleting the session drops."""

    version: int = 0
    turns: int = 0
    state: bytes = b""
    usage: bytes = b""
    created: float = 0.0
    updated: float = 0.0
    history: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stream:
    position: Position
    touched: float


@dataclass(frozen=True, slots=True)
class _Kept:
    record: Record
    settled: float
    stays: bool
    """However old it is."""
    awaits: Number | None = None
    """Under which number a redriven copy is on its way."""


@dataclass(frozen=True, slots=True)
class _Verb:
    answer: VerbAnswer.ValueType
    status: bytes
    recorded: float


@dataclass(slots=True)
class _Session:
    shard: int = -1
    talk: _Talk = field(default_factory=_Talk)
    streams: dict[str, _Stream] = field(default_factory=dict)
    inbox: dict[Number, Entry] = field(default_factory=dict)
    envelopes: dict[Number, bytes] = field(default_factory=dict)
    records: dict[str, _Kept] = field(default_factory=dict)
    journals: dict[str, dict[tuple[bytes, str], bytes]] = field(default_factory=dict)
    """By message id: what each step of each payload, by its digest, came to."""
    verbs: dict[str, dict[str, _Verb]] = field(default_factory=dict)
    outbox: dict[Number, Outgoing] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)
    size: int = 0
    """Bytes of the envelopes."""

    @property
    def is_due(self) -> bool:
        """There is something left to do."""
        return bool(self.inbox or self.outbox)

    def position(self, stream: str) -> Position:
        found = self.streams.get(stream)
        return found.position if found else Position()

    def fate(self, message_id: str) -> turn_pb2.Fate.ValueType | None:
        kept = self.records.get(message_id)
        return kept.record.fate if kept else None

    def is_final(self, message_id: str) -> bool:
        return rules.is_final(self.fate(message_id))

    def tombstone(self, message_id: str) -> _Verb | None:
        return next((verb for verb in self.verbs.get(message_id, {}).values() if verb.answer in rules.BINDING), None)

    def waiting(self, message_id: str) -> list[Entry]:
        return [entry for entry in self.inbox.values() if entry.message_id == message_id and not entry.skip]

    def found(self, number: Number, message_id: str) -> rules.Found:
        return rules.Found(
            position=self.position(number.stream),
            waits=self.inbox.get(number),
            fate=self.fate(message_id),
            cancelled=self.tombstone(message_id) is not None,
            version=self.talk.version,
        )

    def insert(self, entry: Entry, envelope: bytes, *, at_head: bool) -> None:
        self.remove(entry.number)
        self.envelopes[entry.number] = envelope
        self.size += len(envelope)
        if at_head:
            self.inbox = {entry.number: entry, **self.inbox}
        else:
            self.inbox[entry.number] = entry

    def remove(self, number: Number) -> None:
        self.inbox.pop(number, None)
        self.size -= len(self.envelopes.pop(number, b""))

    def settle(self, message_id: str, record: Record, now: float) -> None:
        """Write the record, where it may be; what waits under this id keeps its place as a SKIP."""
        for entry in self.waiting(message_id):
            self.inbox[entry.number] = replace(entry, skip=True)
        old = self.records.get(message_id)
        if not rules.replaces(old.record.fate if old else None, record.fate):
            return
        if record.fate in rules.REDRIVABLE:
            self.records[message_id] = _Kept(record, now, stays=True, awaits=old.awaits if old else None)
        else:
            self.records[message_id] = _Kept(record, now, stays=False)
            self.journals.pop(message_id, None)

    def awaits(self, message_id: str) -> bool:
        """Whether a redriven copy of the message is on its way."""
        kept = self.records.get(message_id)
        return kept is not None and kept.awaits is not None

    def await_(self, message_id: str, number: Number) -> None:
        self.records[message_id] = replace(self.records[message_id], stays=True, awaits=number)

    def comes_again(self, placed: Entry) -> None:
        """What was placed may be a redriven copy that nobody was told of."""
        if rules.is_next_try(placed, self.fate(placed.message_id)) and not self.awaits(placed.message_id):
            self.await_(placed.message_id, placed.number)

    def came(self, message_id: str, settled: Number) -> None:
        """A copy that is settled is awaited no more."""
        kept = self.records.get(message_id)
        if kept is not None and kept.awaits == settled:
            self.records[message_id] = replace(kept, awaits=None)

    def send(self, messages: Iterable[Outgoing], now: float) -> None:
        for message in messages:
            self.outbox[message.number] = message
            self.sent[message.target] = Sent(message.number, now)

    def summary(self, key: SessionKey) -> SessionSummary:
        talk, waiting = self.talk, sum(not entry.skip for entry in self.inbox.values())
        return SessionSummary(key, talk.version, talk.turns, waiting, talk.usage, talk.created, talk.updated)

    def forget(self, old: float, idle_since: float) -> None:
        streams = {number.stream for number in self.inbox}
        sending = {number.stream for number in self.outbox}
        waiting = {entry.message_id for entry in self.inbox.values() if not entry.skip}
        for id_ in [id_ for id_, kept in self.records.items() if kept.settled < old and not kept.stays]:
            del self.records[id_]
            self.journals.pop(id_, None)
        self.verbs = {
            id_: kept
            for id_, verbs in self.verbs.items()
            if (kept := {verb_id: verb for verb_id, verb in verbs.items() if verb.recorded >= old or id_ in waiting})
        }
        self.streams = {name: found for name, found in self.streams.items() if found.touched >= old or name in streams}
        self.sent = {
            target: sent for target, sent in self.sent.items() if sent.at >= old or sent.number.stream in sending
        }
        if self.talk.version and self.talk.updated < idle_since and not self.is_due:
            self.talk = _Talk()
            self.journals = {id_: steps for id_, steps in self.journals.items() if id_ in self.records}
