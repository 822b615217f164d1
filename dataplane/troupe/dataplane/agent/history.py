"""How a conversation is stored: one delta per turn, and now and then a snapshot, MessagePack, with the version of its
schema."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from troupe.chassis.errors import DataLoss, FailedPrecondition
from troupe.dataplane.agent.conversation import Entry, UserMessage

SCHEMA: Final = 1
"""Grows when an older reader would misread a delta. Fields may be added without it."""
UPCASTERS: Final[Mapping[int, Callable[[Any], Any]]] = {}
"""For each older schema: from the entries as it has them, plain data, to the next one's."""
MAX_SNAPSHOT: Final = 4 * 1024 * 1024
"""Bytes of a snapshot, but that it holds the newest turn whatever that has."""


class _Delta(msgspec.Struct, frozen=True, array_like=True):
    schema: int
    entries: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_envelope = msgspec.msgpack.Decoder(_Delta)
_entries = msgspec.msgpack.Decoder(tuple[Entry, ...])


def encode(entries: Sequence[Entry]) -> bytes:
    """The delta that appends `entries` to a history."""
    return _encoder.encode(_Delta(SCHEMA, msgspec.Raw(_encoder.encode(entries))))


def decode(delta: bytes) -> tuple[Entry, ...]:
    """The entries of one delta, or snapshot. Raises DataLoss where it is none, FailedPrecondition where a newer Troupe
    wrote it."""
    return _decode(delta, SCHEMA, UPCASTERS)


def _decode(delta: bytes, current: int, upcasters: Mapping[int, Callable[[Any], Any]]) -> tuple[Entry, ...]:
    try:
        found = _envelope.decode(delta)
        if found.schema > current:
            raise FailedPrecondition(
                "NEWER_HISTORY",
                f"a history has schema {found.schema}, this version reads up to {current}: run the newer version",
            )
        if found.schema == current:
            return _entries.decode(found.entries)
        older = msgspec.msgpack.decode(found.entries)
        for schema in range(found.schema, current):
            older = upcasters[schema](older)
        return msgspec.convert(older, tuple[Entry, ...])
    except (msgspec.MsgspecError, KeyError) as error:
        raise DataLoss("BAD_HISTORY", f"a stored history entry cannot be read: {error}") from error


def replay(deltas: Iterable[bytes]) -> tuple[Entry, ...]:
    """The conversation that the deltas, oldest first, add up to. Raises as `decode`."""
    return tuple(entry for delta in deltas for entry in decode(delta))


def snapshot(entries: Sequence[Entry]) -> bytes:
    """What stands for a history that ends with `entries`: its newest turns, each whole, in MAX_SNAPSHOT bytes."""
    size, start = 0, len(entries)
    for index in range(len(entries) - 1, -1, -1):
        size += len(_encoder.encode(entries[index]))
        if size > MAX_SNAPSHOT and start < len(entries):
            break
        if index == 0 or isinstance(entries[index], UserMessage):
            start = index
    return encode(entries[start:])


def restored(snapshot: bytes, deltas: Iterable[bytes]) -> tuple[Entry, ...]:
    """The conversation from a snapshot, where there is one, and the deltas since. Raises as `decode`."""
    return (*(decode(snapshot) if snapshot else ()), *replay(deltas))
