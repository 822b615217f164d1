"""How a turn's new entries are stored: one delta per turn, MessagePack, with the version of its schema."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from troupe.chassis.errors import DataLoss, FailedPrecondition
from troupe.dataplane.agent.conversation import Entry

SCHEMA: Final = 1
"""Grows when an older reader would misread a delta. Fields may be added without it."""


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
    """The entries of one delta. Raises DataLoss where it is none, FailedPrecondition where a newer Troupe wrote it."""
    try:
        envelope = _envelope.decode(delta)
        if envelope.schema > SCHEMA:
            raise FailedPrecondition(
                "NEWER_HISTORY",
                f"a history has schema {envelope.schema}, this version reads up to {SCHEMA}: run the newer version",
            )
        return _entries.decode(envelope.entries)
    except msgspec.MsgspecError as error:
        raise DataLoss("BAD_HISTORY", f"a stored history entry cannot be read: {error}") from error


def replay(deltas: Iterable[bytes]) -> tuple[Entry, ...]:
    """The conversation that the deltas, oldest first, add up to. Raises as `decode`."""
    return tuple(entry for delta in deltas for entry in decode(delta))
