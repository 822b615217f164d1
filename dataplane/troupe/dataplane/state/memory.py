"""Session state that lives as long as the process: for tests, and for embedding where durability is not wanted."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.dataplane.state import rules
from troupe.dataplane.state.port import (
    RECENT,
    RECORD_KEPT,
    Begun,
    Entry,
    Loaded,
    Owner,
    Placed,
    Record,
    SessionSummary,
    TurnCommit,
    begun,
)
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer


class MemoryStateStore:
    """See `troupe.dataplane.state.port.StateStore`."""

    def __init__(self) -> None:
        self._fences: dict[int, tuple[int, str]] = {}
        self._sessions: dict[SessionKey, _Session] = {}

    async def claim(self, owner: Owner) -> Sequence[SessionKey]:
        with self._carried_out(owner):
            return [key for key, session in self._sessions.items() if session.shard == owner.shard and session.inbox]

    async def load(self, key: SessionKey) -> Loaded:
        session = self._find(key)
        return Loaded(
            version=session.talk.version,
            state=session.talk.state,
            history=list(session.talk.history),
            positions={name: stream.position for name, stream in session.streams.items()},
            inbox=list(session.inbox.values()),
            recent=list(session.records)[:RECENT],
            cancelled=[id_ for id_ in session.verbs if session.tombstone(id_) and id_ not in session.records],
            journaled=frozenset(session.journals.keys() - session.records.keys()),
        )

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> Placed:
        with self._owned(owner, key) as session:
            tombstone = None if entry.message_id in session.journals else session.tombstone(entry.message_id)
            placed, record = rules.place(
                entry,
                session.position(entry.number.stream),
                waits=entry.number in session.inbox,
                known=bool(session.waiting(entry.message_id)) or entry.message_id in session.records,
                tombstone=tombstone.status if tombstone else None,
            )
            if placed in (Placed.NEW, Placed.SKIPPED):
                session.insert(replace(entry, skip=placed is Placed.SKIPPED), envelope, at_head=entry.running)
            if record is not None:
                session.settle(entry.message_id, record, entry.placed)
            return placed

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        with self._owned(owner, key) as session:
            waits = session.inbox[entry.number]
            if waits.attempts <= entry.attempts:
                started = begun(entry)
                session.inbox[entry.number] = replace(
                    waits, starts=started.starts, attempts=started.attempts, running=started.running
                )
            return Begun(session.envelopes[entry.number], dict(session.journals.get(entry.message_id, {})))

    async def journal(
        self, owner: Owner, key: SessionKey, message_id: str, steps: Mapping[str, bytes], *, starts: bool
    ) -> None:
        with self._owned(owner, key) as session:
            cancelled = session.tombstone(message_id) is not None
            if rules.may_keep(message_id, session.fate(message_id), cancelled=cancelled, starts=starts) and steps:
                session.journals[message_id] = {**steps, **session.journals.get(message_id, {})}

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        with self._owned(owner, key) as session:
            if rules.puts_back(entry, session.found(entry.number, entry.message_id)):
                session.insert(entry, session.envelopes.get(entry.number, envelope), at_head=True)

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        with self._owned(owner, commit.key) as session:
            talk, record = session.talk, commit.record
            position = rules.settled(commit, session.found(commit.number, commit.message_id))
            if position is None:
                return talk.version
            session.streams[commit.number.stream] = _Stream(position, commit.now)
            session.remove(commit.number)
            if record is not None:
                session.settle(commit.message_id, record, commit.now)
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
            return session.talk.version

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, now: float) -> bool:
        with self._owned(owner, key) as session:
            position = session.position(number.stream)
            if number.sequence != position.settled + 1 or number in session.inbox:
                return False
            session.streams[number.stream] = _Stream(position.pass_over(), now)
            return True

    async def record(self, key: SessionKey, message_id: str) -> Record | None:
        kept = self._find(key).records.get(message_id)
        return kept.record if kept else None

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
            waiting, session.fate(message_id), journaled=message_id in session.journals
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
    def _carried_out(self, owner: Owner) -> Iterator[None]:
        """What is inside is a script of the owner's: a refused one leaves the fence as it is."""
        raises = rules.raises_fence(owner, self._fences.get(owner.shard, rules.UNCLAIMED))
        yield
        if raises:
            self._fences[owner.shard] = (owner.epoch, owner.instance)

    @contextlib.contextmanager
    def _owned(self, owner: Owner, key: SessionKey) -> "Iterator[_Session]":
        with self._carried_out(owner):
            session = self._sessions.setdefault(key, _Session())
            session.shard = owner.shard
            yield session

    def _find(self, key: SessionKey) -> "_Session":
        return self._sessions.get(key, _Session())


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
    journals: dict[str, dict[str, bytes]] = field(default_factory=dict)
    verbs: dict[str, dict[str, _Verb]] = field(default_factory=dict)

    def position(self, stream: str) -> Position:
        found = self.streams.get(stream)
        return found.position if found else Position()

    def fate(self, message_id: str) -> turn_pb2.Fate.ValueType | None:
        kept = self.records.get(message_id)
        return kept.record.fate if kept else None

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
        self.inbox.pop(entry.number, None)
        self.envelopes[entry.number] = envelope
        if at_head:
            self.inbox = {entry.number: entry, **self.inbox}
        else:
            self.inbox[entry.number] = entry

    def remove(self, number: Number) -> None:
        self.inbox.pop(number, None)
        self.envelopes.pop(number, None)

    def settle(self, message_id: str, record: Record, now: float) -> None:
        """Write the record, where it may be; what waits under this id keeps its place as a SKIP."""
        for entry in self.waiting(message_id):
            self.inbox[entry.number] = replace(entry, skip=True)
        if rules.replaces(self.fate(message_id), record.fate):
            self.records[message_id] = _Kept(record, now)
            if record.fate not in rules.REDRIVABLE:
                self.journals.pop(message_id, None)

    def summary(self, key: SessionKey) -> SessionSummary:
        talk, waiting = self.talk, sum(not entry.skip for entry in self.inbox.values())
        return SessionSummary(key, talk.version, talk.turns, waiting, talk.usage, talk.created, talk.updated)

    def forget(self, old: float, idle_since: float) -> None:
        streams = {number.stream for number in self.inbox}
        waiting = {entry.message_id for entry in self.inbox.values() if not entry.skip}
        self.records = {
            id_: kept
            for id_, kept in self.records.items()
            if kept.settled >= old or kept.record.fate in rules.REDRIVABLE
        }
        self.verbs = {
            id_: kept
            for id_, verbs in self.verbs.items()
            if (kept := {verb_id: verb for verb_id, verb in verbs.items() if verb.recorded >= old or id_ in waiting})
        }
        self.streams = {name: found for name, found in self.streams.items() if found.touched >= old or name in streams}
        if self.talk.version and self.talk.updated < idle_since and not self.inbox:
            self.talk = _Talk()
            self.journals = {id_: steps for id_, steps in self.journals.items() if id_ in self.records}
