"""What a busy connection brings most, read without pika's objects: plain deliveries, and confirms. Pure.

pika makes ten objects of a delivery, and looks through its callbacks for each of its frames. Whatever is not as `wire`
writes it (a message with headers, one that was delivered before, one in several frames) is left to pika. Of headers
that pika cannot read, what it needs to go on."""

import struct
from typing import NamedTuple

from pika import exceptions, frame, spec

from troupe.broker.rabbitmq import wire

_HEAD = struct.Struct(">BHII")
"""Of a method frame: type, channel, size; method."""
_DELIVERED = struct.Struct(">QB")
"""Behind the consumer's tag: delivery tag, whether it was delivered before."""
_CONFIRMED = struct.Struct(">BHIIQBB")
_CONFIRMED_SIZE = 4 + 8 + 1
_CONTENT = struct.Struct(">BHIHHQ")
"""Of a header frame: type, channel, size; class, weight, size of the body."""
UNREADABLE = (ValueError, OverflowError, OSError, exceptions.InvalidFieldTypeException)
"""What pika raises for properties that it has no values for, as for a time in milliseconds: no year is that far off."""


class Plain(NamedTuple):
    """A message that has nothing but the time of its publishing, in microseconds since the epoch."""

    channel: int
    tag: int
    published: int
    body: bytes


class Confirm(NamedTuple):
    """What was published is safe: up to `tag` where `multiple`."""

    channel: int
    tag: int
    multiple: bool


def first(buffer: bytes, at: int) -> tuple[Plain | Confirm | None, int]:
    """What begins at `at`, where a frame does, and where the next one begins. None: it is none of the two, or, where
    it would end beyond the buffer, has not come whole."""
    try:
        kind, channel, size, method = _HEAD.unpack_from(buffer, at)
        if kind != spec.FRAME_METHOD:
            return None, at
        if method == spec.Basic.Deliver.INDEX:
            return _plain(buffer, at, channel, size)
        if method == spec.Basic.Ack.INDEX and size == _CONFIRMED_SIZE:
            *_, tag, multiple, end = _CONFIRMED.unpack_from(buffer, at)
            return (Confirm(channel, tag, bool(multiple & 1)), at + _CONFIRMED.size) if end == wire.END else (None, at)
    except (struct.error, IndexError):  # what says what it is has not come
        pass
    return None, at


def bare(buffer: bytes) -> tuple[int, frame.Header] | None:
    """The header frame with which the buffer begins, without the properties that it carries, and its size. None: it
    is another one."""
    kind, channel, size, _, _, length = _CONTENT.unpack_from(buffer)
    if kind != spec.FRAME_HEADER:
        return None
    return spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE, frame.Header(channel, length, spec.BasicProperties())


def _plain(buffer: bytes, at: int, channel: int, size: int) -> tuple[Plain | None, int]:
    tag, again = _DELIVERED.unpack_from(buffer, at + _HEAD.size + 1 + buffer[at + _HEAD.size])
    header = at + spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE
    *head, length, flags, _, published, closed, kind, carrier, carried = wire.PLAIN.unpack_from(buffer, header)
    is_plain = (
        not again
        and head == [spec.FRAME_HEADER, channel, wire.PLAIN_SIZE, spec.BasicProperties.INDEX, 0]
        and (flags, kind, carrier, carried) == (wire.FLAGS, spec.FRAME_BODY, channel, length)
        and buffer[header - 1] == closed == wire.END
    )
    body = header + wire.PLAIN.size
    end = body + length
    if not is_plain:
        return None, at
    if end >= len(buffer):
        return None, end + 1
    return (Plain(channel, tag, published, buffer[body:end]), end + 1) if buffer[end] == wire.END else (None, at)
