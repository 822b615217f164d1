"""How values of the port stand in Redis, where scripts read them too. Pure.

Entries are MessagePack, which Redis' Lua knows; it has no byte strings, so digests are hexadecimal everywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.dataplane.state.port import Entry, Loaded, Mark, Outgoing, Record, Sent, SessionSummary
from troupe.v1.turn_pb2 import Fate

STREAM, SENT = b"stream:", b"sent:"
"""What the fields of a session's hash begin with that are about a stream, or a target."""


class _Waiting(msgspec.Struct):
    """An Entry."""

    sequence: int
    stream: str
    message_id: str
    digest: str
    placed: float
    skip: bool
    attempts: int
    failures: int
    starts: int
    not_before: float
    first_failed: float
    redriven: bool
    place: int = 0
    epoch: int | None = None
    instance: str | None = None


class _Stream(msgspec.Struct):
    settled: int
    gaps: list[int]


class _Sent(msgspec.Struct):
    sequence: int
    stream: str
    at: float


_entries = msgspec.msgpack.Decoder(_Waiting)
_streams = msgspec.msgpack.Decoder(_Stream)
_sents = msgspec.msgpack.Decoder(_Sent)


def packed(entry: Entry) -> bytes:
    """The entry as scripts take it."""
    return msgspec.msgpack.encode(
        _Waiting(
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
        )
    )


def entry(kept: bytes) -> Entry:
    return _entry(_entries.decode(kept))


def _entry(found: _Waiting) -> Entry:
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
    )


def record(kept: bytes, redriven: int) -> Record:
    """From `FATE SETTLED DIGEST STATUS`, and whether it is no end."""
    fate, _, digest, status = kept.split(b" ", 3)
    return Record(Fate.ValueType(int(fate)), status, bytes.fromhex(digest.decode()), bool(redriven))


def loaded(reply: Sequence[Any]) -> Loaded:
    """From the reply of the script `load`."""
    fields, history, entries, recent, cancelled, journaled, outbox = reply
    talk = pairs(fields)
    waiting = sorted(map(_entries.decode, entries), key=lambda found: found.place)
    return Loaded(
        version=int(talk.get(b"version", 0)),
        state=talk.get(b"state", b""),
        history=history,
        positions={
            field.removeprefix(STREAM).decode(): _position(kept)
            for field, kept in talk.items()
            if field.startswith(STREAM)
        },
        inbox=[_entry(found) for found in waiting],
        recent=[id_.decode() for id_ in recent],
        cancelled=[id_.decode() for id_ in cancelled],
        journaled=frozenset(id_.decode() for id_ in journaled),
        outbox=[
            Outgoing(target.decode(), Number(stream.decode(), sequence), envelope)
            for target, sequence, stream, envelope in outbox
        ],
        sent={field.removeprefix(SENT).decode(): _sent(kept) for field, kept in talk.items() if field.startswith(SENT)},
    )


def journal(fields: Sequence[bytes], digest: bytes) -> Mapping[str, bytes]:
    """The steps of one payload, by its digest in hexadecimal, among all that a message's journal holds."""
    own = digest + b" "
    return {step.removeprefix(own).decode(): content for step, content in pairs(fields).items() if step.startswith(own)}


def summary(row: Sequence[Any]) -> SessionSummary:
    path, version, turns, waiting, usage, created, updated = row
    key = SessionKey.parse(path.decode())
    return SessionSummary(key, int(version), int(turns), int(waiting), usage, float(created), float(updated))


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Fields and values one after another, as Redis answers."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _position(kept: bytes) -> Position:
    found = _streams.decode(kept)
    return Position(found.settled, frozenset(found.gaps))


def _sent(kept: bytes) -> Sent:
    found = _sents.decode(kept)
    return Sent(Number(found.stream, found.sequence), found.at)
