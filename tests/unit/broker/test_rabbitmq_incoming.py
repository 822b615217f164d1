"""What is read of a connection without pika's objects: never anything else than pika would read."""

import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from troupe.broker.rabbitmq import incoming, wire
from troupe.broker.rabbitmq.incoming import Confirm, Plain
from troupe.broker.rabbitmq.link import Link

DELIVERY_MODE: Literal[2] = 2
plain_properties = st.builds(
    lambda published: spec.BasicProperties(delivery_mode=DELIVERY_MODE, timestamp=published), st.integers(0, 2**63)
)
PLAIN = spec.BasicProperties(delivery_mode=DELIVERY_MODE, timestamp=9)
other_properties = st.sampled_from(
    [
        spec.BasicProperties(),
        spec.BasicProperties(delivery_mode=DELIVERY_MODE),
        spec.BasicProperties(delivery_mode=DELIVERY_MODE, timestamp=7, headers={"x-delivery-count": 1}),
        spec.BasicProperties(delivery_mode=DELIVERY_MODE, timestamp=7, message_id="m"),
    ]
)


def _delivery(channel: int, method: spec.Basic.Deliver, properties: spec.BasicProperties, *parts: bytes) -> bytes:
    """As a server writes it, its body in these parts."""
    frames = (
        frame.Method(channel, method),
        frame.Header(channel, sum(map(len, parts)), properties),
        *(frame.Body(channel, part) for part in parts),
    )
    return b"".join(each.marshal() for each in frames)


def _read(tag: int, channel: int, properties: spec.BasicProperties, body: bytes) -> Plain:
    assert properties.timestamp is not None
    return Plain(channel, tag, properties.timestamp, body)


def _deliver(tag: int, *, again: bool = False, consumer: str = "consumer") -> spec.Basic.Deliver:
    return spec.Basic.Deliver(consumer, tag, again, "troupe.v1.in", "troupe.v1.mailbox.7")


@given(
    st.binary(max_size=20),
    st.integers(1, 2**16 - 1),
    st.integers(1, 2**63),
    st.text("abc", max_size=255),
    plain_properties,
    st.binary(min_size=1, max_size=500),
    st.binary(max_size=20),
)
def test_a_plain_delivery_is_read_wherever_it_stands(
    before: bytes,
    channel: int,
    tag: int,
    consumer: str,
    properties: spec.BasicProperties,
    body: bytes,
    behind: bytes,
) -> None:
    written = _delivery(channel, _deliver(tag, consumer=consumer), properties, body)

    found, end = incoming.first(before + written + behind, len(before))

    assert found == _read(tag, channel, properties, body)
    assert end == len(before) + len(written)


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**63), st.booleans())
def test_a_confirm_is_read(channel: int, tag: int, multiple: bool) -> None:
    written = frame.Method(channel, spec.Basic.Ack(tag, multiple)).marshal()

    assert incoming.first(written, 0) == (Confirm(channel, tag, multiple), len(written))


def test_of_what_has_not_come_whole_nothing_is_read() -> None:
    written = _delivery(3, _deliver(5), PLAIN, b"body")

    ends = [incoming.first(written[:length], 0) for length in range(len(written))]

    assert {found for found, _ in ends} == {None}
    # Either it is pika's to wait for the rest, or known how long that is.
    assert {end for _, end in ends} == {0, len(written)}


@given(other_properties, st.lists(st.binary(min_size=1, max_size=50), max_size=3))
def test_of_any_other_message_nothing_is_read(properties: spec.BasicProperties, parts: list[bytes]) -> None:
    assert incoming.first(_delivery(3, _deliver(5), properties, *parts), 0) == (None, 0)


@pytest.mark.parametrize("parts", [[], [b"two ", b"frames"], 2 * [20 * bytes([wire.END])]])
def test_a_body_in_no_frame_or_several_is_not_read(parts: list[bytes]) -> None:
    assert incoming.first(_delivery(3, _deliver(5), PLAIN, *parts), 0)[0] is None


def test_what_comes_again_is_not_read() -> None:
    assert incoming.first(_delivery(3, _deliver(5, again=True), PLAIN, b"body"), 0) == (None, 0)


@pytest.mark.parametrize("method", [spec.Basic.Nack(5), spec.Basic.Return(312, "NO_ROUTE", "in", "key")])
def test_any_other_method_is_not_read(method: spec.Basic.Nack | spec.Basic.Return) -> None:
    assert incoming.first(frame.Method(3, method).marshal(), 0) == (None, 0)


@given(st.integers(0), st.integers(0, 255))
def test_a_byte_that_is_wrong_is_read_as_pika_reads_it_or_not_at_all(at: int, byte: int) -> None:
    method = frame.Method(3, _deliver(5)).marshal()
    written = bytearray(_delivery(3, _deliver(5), PLAIN, b"body" * 20))
    # All but the names, which nobody reads here.
    places = [*range(11), *range(len(method) - 1, len(written))]
    written[places[at % len(places)]] = byte

    found, end = incoming.first(bytes(written), 0)

    if isinstance(found, Plain):
        assert found == _by_pika(bytes(written[:end]))


def _by_pika(written: bytes) -> Plain:
    frames = []
    while written:
        consumed, found = frame.decode_frame(written)
        frames.append(found)
        written = written[consumed:]
    method, header, body = frames
    assert isinstance(method, frame.Method)
    assert isinstance(header, frame.Header)
    assert isinstance(body, frame.Body)
    assert {method.channel_number, header.channel_number} == {body.channel_number}
    assert not method.method.redelivered
    return _read(method.method.delivery_tag, body.channel_number, header.properties, body.fragment)


def test_frames_of_two_channels_are_never_one_delivery() -> None:
    mixed = (
        frame.Method(3, _deliver(5)).marshal() + frame.Header(3, 4, PLAIN).marshal() + frame.Body(4, b"body").marshal()
    )

    assert incoming.first(mixed, 0) == (None, 0)


def test_a_message_as_it_is_published_comes_as_a_plain_delivery() -> None:
    published = wire.plain(b"", b"body", 1_234_567)
    method = frame.Method(wire.CHANNEL, _deliver(5)).marshal()

    assert incoming.first(method + published, 0)[0] == Plain(wire.CHANNEL, 5, 1_234_567, b"body")


class _Reading(Link):
    """A connection without a server: what comes, in its order, by whomever it was read."""

    def __init__(self, taken: int) -> None:
        self._frame_buffer, self.bytes_received = b"", 0
        self.takers = {taken: self._take}
        self.read: list[tuple[int, bytes]] = []
        self.by_pika = 0

    def come(self, data: bytes) -> None:
        self._on_data_available(data)  # type: ignore[attr-defined]

    def _take(self, found: Plain | Confirm) -> None:
        assert isinstance(found, Plain)
        self.read.append((found.tag, found.body))

    def _process_frame(self, found: object) -> None:
        if isinstance(found, frame.Method):
            self.read.append((found.method.delivery_tag, b""))
            self.by_pika += 1
        elif isinstance(found, frame.Body):
            tag, body = self.read[-1]
            self.read[-1] = tag, body + found.fragment


@given(
    st.lists(st.tuples(st.sampled_from([3, 4]), st.booleans(), st.integers(1, 60), st.integers(1, 2)), max_size=12),
    st.lists(st.integers(1, 300), min_size=1, max_size=8),
)
def test_whatever_comes_in_whatever_pieces_is_read_once_and_in_order(
    messages: list[tuple[int, bool, int, int]], pieces: list[int]
) -> None:
    sent, expected = b"", []
    for tag, (channel, again, size, parts) in enumerate(messages, 1):
        sent += _delivery(channel, _deliver(tag, again=again), PLAIN, *[bytes([tag]) * size] * parts)
        expected.append((tag, bytes([tag]) * size * parts))
    reading, rest, turns = _Reading(taken=3), sent, itertools.cycle(pieces)

    while rest:
        piece = next(turns)
        reading.come(rest[:piece])
        rest = rest[piece:]

    assert reading.read == expected
    assert reading.bytes_received == len(sent), "pika tells by it that the server lives"


def test_pika_does_not_see_what_is_taken() -> None:
    reading = _Reading(taken=3)
    one = _delivery(3, _deliver(1), PLAIN, b"one")

    for piece in (one, one + one[:-1], one[-1:]):
        reading.come(piece)

    assert len(reading.read) == 3
    assert reading.by_pika == 0
