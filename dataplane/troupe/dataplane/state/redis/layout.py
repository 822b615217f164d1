"""How values of the port stand in Redis, where scripts read them too. Pure.

Entries are MessagePack, which Redis' Lua knows; it has no byte strings, so digests and other short bytes are
hexadecimal everywhere, and long ones stand beside what is packed. What is as it mostly is, is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.dataplane.state.control import Promise, Reminder, Restart
from troupe.dataplane.state.port import Claimed, Resting
from troupe.dataplane.state.session import Entry, Loaded, Mark, Outgoing, Record, Sent, SessionSummary, Verbs
from troupe.v1 import promise_pb2
from troupe.v1.promise_pb2 import PromiseState
from troupe.v1.turn_pb2 import Fate

STREAM, SENT = b"stream:", b"sent:"
"""What the fields of a session's hash begin with that are about a stream, or a target."""


class _Entry(msgspec.Struct, omit_defaults=True):
    sequence: int
    stream: str
    message_id: str
    digest: str
    placed: float
    skip: bool = False
    attempts: int = 0
    failures: int = 0
    starts: int = 0
    not_before: float = 0.0
    first_failed: float = 0.0
    redriven: bool = False
    place: int = 0
    epoch: int | None = None
    instance: str | None = None
    due: float = 0.0
    rejection: str = ""
    awaits: tuple[str, ...] = ()
    suspended: float = 0.0
    attributes: tuple[tuple[str, str], ...] = ()


class _Reminder(msgspec.Struct):
    name: str
    stream: str
    due: float
    every: float
    digest: str


class _Promise(msgspec.Struct, omit_defaults=True):
    id: str
    name: str
    message_id: str
    created: float
    expires: float = 0.0
    tokens: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    state: int = promise_pb2.PROMISE_STATE_OPEN
    settlement_id: str = ""
    settled_by: str = ""
    settled: float = 0.0


class _Stream(msgspec.Struct):
    settled: int
    gaps: list[int]


class _Sent(msgspec.Struct):
    sequence: int
    stream: str
    at: float


_entries = msgspec.msgpack.Decoder(_Entry)
_promises = msgspec.msgpack.Decoder(_Promise)
_streams = msgspec.msgpack.Decoder(_Stream)
_sents = msgspec.msgpack.Decoder(_Sent)


def packed(entry: Entry) -> bytes:
    """The entry as scripts take it."""
    return msgspec.msgpack.encode(
        _Entry(
            sequence=entry.number.sequence,
            stream=entry.number.stream,
            message_id=entry.message_id,
            digest=entry.digest.hex(),
            placed=entry.placed,
            skip=entry.skip,
            attempts=entry.attempts,
            failures=entry.failures,
            starts=entry.starts,
            not_before=entry.not_before,
            first_failed=entry.first_failed,
            redriven=entry.redriven,
            epoch=entry.running.epoch if entry.running else None,
            instance=entry.running.instance if entry.running else None,
            due=entry.due,
            rejection=entry.rejection.hex(),
            awaits=entry.awaits,
            suspended=entry.suspended,
            attributes=entry.attributes,
        )
    )


def entry(kept: bytes) -> Entry:
    return _entry(_entries.decode(kept))


def _entry(found: _Entry) -> Entry:
    return Entry(
        Number(found.stream, found.sequence),
        found.message_id,
        bytes.fromhex(found.digest),
        found.placed,
        found.skip,
        found.attempts,
        found.failures,
        found.starts,
        found.not_before,
        found.first_failed,
        None if found.epoch is None or found.instance is None else Mark(found.epoch, found.instance),
        found.redriven,
        found.due,
        bytes.fromhex(found.rejection),
        found.awaits,
        found.suspended,
        found.attributes,
    )


def packed_reminder(reminder: Reminder) -> tuple[bytes, bytes]:
    """The reminder as scripts take it, and its envelope."""
    kept = _Reminder(reminder.name, reminder.stream, reminder.due, reminder.every, reminder.digest.hex())
    return msgspec.msgpack.encode(kept), reminder.envelope


def packed_promise(promise: Promise) -> tuple[bytes, bytes]:
    """The promise as scripts take it, open, and its schema."""
    kept = _Promise(
        id=promise.id,
        name=promise.name,
        message_id=promise.message_id,
        created=promise.created,
        expires=promise.expires,
        tokens=tuple(token.hex() for token in promise.tokens),
        approvers=promise.approvers,
    )
    return msgspec.msgpack.encode(kept), promise.json_schema


def promise(kept: bytes, schema: bytes, value: bytes) -> Promise:
    found = _promises.decode(kept)
    return Promise(
        found.id,
        found.name,
        found.message_id,
        found.created,
        found.expires,
        tuple(map(bytes.fromhex, found.tokens)),
        found.approvers,
        schema,
        PromiseState.ValueType(found.state),
        value,
        found.settlement_id,
        found.settled_by,
        found.settled,
    )


def record(kept: bytes, redriven: int) -> Record:
    """From `FATE SETTLED DIGEST STATUS`, and whether it is no end."""
    fate, _, digest, status = kept.split(b" ", 3)
    return Record(Fate.ValueType(int(fate)), status, bytes.fromhex(digest.decode()), bool(redriven))


def loaded(reply: Sequence[Any]) -> Loaded:
    """From the reply of the script `load`."""
    fields, history, entries, recent, recorded, journaled, outbox = reply
    talk = pairs(fields)
    waiting = sorted(map(_entries.decode, entries), key=lambda found: found.place)
    return Loaded(
        version=int(talk.get(b"version", 0)),
        state=talk.get(b"state", b""),
        snapshot=talk.get(b"snapshot", b""),
        history=[content for _, content in map(delta, history)],
        positions={
            field.removeprefix(STREAM).decode(): _position(kept)
            for field, kept in talk.items()
            if field.startswith(STREAM)
        },
        inbox=[_entry(found) for found in waiting],
        recent=[id_.decode() for id_ in recent],
        verbs=verbs(recorded),
        journaled=ids(journaled),
        outbox=[
            Outgoing(target.decode(), Number(stream.decode(), sequence), envelope)
            for target, sequence, stream, envelope in outbox
        ],
        sent={field.removeprefix(SENT).decode(): _sent(kept) for field, kept in talk.items() if field.startswith(SENT)},
    )


def delta(kept: bytes) -> tuple[int, bytes]:
    """From `VERSION DELTA`."""
    version, _, content = kept.partition(b" ")
    return int(version), content


def verbs(reply: Sequence[Sequence[bytes]]) -> Verbs:
    cancelled, killed, paused = map(ids, reply)
    return Verbs(cancelled, killed, paused)


def claimed(reply: Sequence[Sequence[bytes]]) -> Claimed:
    due, verbs = ([session(path) for path in paths] for paths in reply)
    return Claimed(due, verbs)


def journal(fields: Sequence[bytes], digest: bytes) -> Mapping[str, bytes]:
    """The steps of one payload, by its digest in hexadecimal, among all that a message's journal holds."""
    own = digest + b" "
    return {step.removeprefix(own).decode(): content for step, content in pairs(fields).items() if step.startswith(own)}


def restart(to: Restart) -> Iterator[str | int | bytes]:
    """What scripts take of the message that goes on."""
    yield from (to.seen, packed(to.entry), to.envelope, msgspec.msgpack.encode(sorted(to.promises)))
    for step, content in to.journal.items():
        yield from (step, content)


def resting(found: Sequence[Any]) -> Resting:
    """From the reply of the script `resting`."""
    digest, envelope, fields, promises, purged = found
    return Resting(
        bytes.fromhex(digest.decode()),
        envelope,
        journal(fields, digest),
        len(fields) // 2,
        sorted((promise(*each) for each in promises), key=lambda each: each.id),
        bool(purged),
    )


def summary(row: Sequence[Any]) -> SessionSummary:
    path, version, turns, waiting, usage, created, updated, scheduled = row
    return SessionSummary(
        session(path),
        int(version),
        int(turns),
        int(waiting),
        usage,
        float(created),
        float(updated),
        int(scheduled),
    )


def session(path: bytes) -> SessionKey:
    return SessionKey.parse(path.decode())


def ids(kept: Iterable[bytes]) -> frozenset[str]:
    return frozenset(id_.decode() for id_ in kept)


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Fields and values one after another, as Redis answers."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _position(kept: bytes) -> Position:
    found = _streams.decode(kept)
    return Position(found.settled, frozenset(found.gaps))


def _sent(kept: bytes) -> Sent:
    found = _sents.decode(kept)
    return Sent(Number(found.stream, found.sequence), found.at)
