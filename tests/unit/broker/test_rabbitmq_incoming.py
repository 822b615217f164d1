"""What is read of a connection without pika's objects: never anything else than pika would read."""

import contextlib
import itertools
import struct
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import ContentFrameAssembler

from troupe.broker.rabbitmq import incoming, wire
from troupe.broker.rabbitmq.incoming import Confirm, Plain
from troupe.broker.rabbitmq.link import Link

DELIVERY_MODE: Literal[2] = 2
plain_properties = st.builds(
    lambda published: spec.BasicProperties(delivery_mode=DELIVERY_MODE, timestamp=published), st.integers(0, 2**63)
)
PLAIN = spec.BasicProperties(delivery_mode=DELIVERY_MODE, timestamp=9)
HEADERS: dict[str, Any] = {
    "x-delivery-count": 1,
    "number": [True, 2**40, Decimal("1.5")],
    "text": ["text", b"\xff", {"nested": {"a": None}}],
    "time": datetime.fromtimestamp(9, UTC),
}
"""Of each type that pika writes."""
other_properties = st.sampled_from(
    [
        spec.BasicProperties(),
        spec.BasicProperties(delivery_mode=DELIVERY_MODE),
        spec.BasicProperties(delivery_mode=DELIVERY_MODE, timestamp=7, message_id="m"),
        spec.BasicProperties(delivery_mode=DELIVERY_MODE, timestamp=7, headers=HEADERS),
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


def test_frames_of_two_channels_are_never_one_delivery() -> None:
    mixed = (
        frame.Method(3, _deliver(5)).marshal() + frame.Header(3, 4, PLAIN).marshal() + frame.Body(4, b"body").marshal()
    )

    assert incoming.first(mixed, 0) == (None, 0)


def test_a_message_as_it_is_published_comes_as_a_plain_delivery() -> None:
    published = wire.plain(b"", b"body", 1_234_567)
    method = frame.Method(wire.CHANNEL, _deliver(5)).marshal()

    assert incoming.first(method + published, 0)[0] == Plain(wire.CHANNEL, 5, 1_234_567, b"body")


TAKEN = 3


class _Connection(AsyncioConnection):
    """Without a server: what pika hears."""

    def __init__(self) -> None:
        self._frame_buffer, self.bytes_received = b"", 0
        self.heard: list[tuple[object, ...]] = []
        self.frames = 0
        self._contents: defaultdict[int, ContentFrameAssembler] = defaultdict(ContentFrameAssembler)

    def come(self, data: bytes) -> None:
        self._on_data_available(data)  # type: ignore[attr-defined]

    def _process_frame(self, found: frame.Frame) -> None:
        self.frames += 1
        channel = found.channel_number
        method = found.method if isinstance(found, frame.Method) else None
        if isinstance(method, spec.Basic.Ack):
            self.heard.append((channel, method.delivery_tag, method.multiple))
        elif isinstance(found, frame.Heartbeat) or (method is not None and not spec.has_content(method.INDEX)):
            self.heard.append((channel, str(found)))
        elif content := self._contents[channel].process(found):  # type: ignore[arg-type,var-annotated]
            of, head, body = content
            told = [getattr(of.method, name, None) for name in ("delivery_tag", "redelivered")]
            given = head.properties
            self.heard.append((channel, *told, given.timestamp, given.headers, given.message_id, body))


class _Link(_Connection, Link):
    """The same with what is read of one channel without pika."""

    def __init__(self, taken: int = TAKEN) -> None:
        super().__init__()
        self.takers = {taken: self._take}

    def _take(self, found: Plain | Confirm) -> None:
        if isinstance(found, Confirm):
            self.heard.append((found.channel, found.tag, found.multiple))
        else:
            self.heard.append((found.channel, found.tag, False, found.published, None, None, found.body))


channels = st.sampled_from([TAKEN, TAKEN + 1])
tags = st.integers(1, 2**63)
deliveries = st.builds(
    lambda channel, tag, again, properties, parts: _delivery(channel, _deliver(tag, again=again), properties, *parts),
    channels,
    tags,
    st.booleans(),
    plain_properties | other_properties,
    st.lists(st.binary(min_size=1, max_size=60), max_size=3),
)
methods = st.builds(
    lambda channel, method: frame.Method(channel, method).marshal(),
    channels,
    st.one_of(
        st.builds(spec.Basic.Ack, tags, st.booleans()),
        st.builds(spec.Basic.Nack, tags, st.booleans()),
        st.sampled_from([spec.Basic.Cancel("consumer"), spec.Basic.CancelOk("consumer"), spec.Channel.Flow(True)]),
    ),
)
others = st.sampled_from(
    [
        frame.Heartbeat().marshal(),
        frame.Method(0, spec.Connection.Blocked("low on memory")).marshal(),
        _delivery(TAKEN, spec.Basic.Return(312, "NO_ROUTE", "in", "key"), PLAIN, b"returned"),  # type: ignore[arg-type]
    ]
)
said = st.lists(deliveries | methods | others, max_size=12).map(b"".join)


@given(said, st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_whatever_comes_in_whatever_pieces_is_heard_as_pika_hears_it(sent: bytes, pieces: list[int]) -> None:
    pika, link, rest, turns = _Connection(), _Link(), sent, itertools.cycle(pieces)

    pika.come(sent)
    while rest:
        piece = next(turns)
        link.come(rest[:piece])
        rest = rest[piece:]

    assert link.heard == pika.heard
    assert link.bytes_received == len(sent), "pika tells by it that the server lives"


METHOD = frame.Method(TAKEN, _deliver(5)).marshal()
NAMES = {*range(11, METHOD.index(b"consumer") + len("consumer")), *range(METHOD.index(b"\x0ctroupe"), len(METHOD) - 1)}
"""Where the consumer, the exchange and the routing key stand in a delivery: nobody reads them here."""


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        (_delivery(TAKEN, _deliver(5), PLAIN, b"body"), NAMES),
        (_delivery(TAKEN, _deliver(5, again=True), PLAIN, b"body"), NAMES),
        (frame.Method(TAKEN, spec.Basic.Ack(5, False)).marshal(), set[int]()),
    ],
    ids=["delivery", "redelivery", "confirm"],
)
def test_where_a_bit_is_wrong_too(sent: bytes, names: set[int]) -> None:
    behind = 3 * _delivery(TAKEN, _deliver(6), PLAIN, b"behind")
    for at in set(range(len(sent))) - names:
        for bit in range(8):
            spoiled = bytearray(sent)
            spoiled[at] ^= 1 << bit

            heard = _heard(_Link(), bytes(spoiled) + behind)
            by_pika = _heard(_Link(taken=0), bytes(spoiled) + behind)

            # pika may end the connection on it, and of what was wrong nothing counts then either.
            assert heard[: len(by_pika)] == by_pika, (at, bit)
            assert all(each[1] == 6 for each in heard[len(by_pika) :]), (at, bit)


def _heard(link: _Link, sent: bytes) -> list[tuple[object, ...]]:
    """All until the connection ends."""
    with contextlib.suppress(Exception):
        link.come(sent)
    return link.heard


def test_pika_does_not_see_what_is_taken() -> None:
    link = _Link()
    one = _delivery(TAKEN, _deliver(1), PLAIN, b"one")

    for piece in (one, one + one[:-1], one[-1:]):
        link.come(piece)

    assert len(link.heard) == 3
    assert link.frames == 0


def test_properties_for_which_pika_has_no_values_are_left_out_and_end_nothing() -> None:
    in_milliseconds = b"\x04when" + b"T" + (1_700_000_000_000).to_bytes(8)
    headers = len(in_milliseconds).to_bytes(4) + in_milliseconds
    content = struct.pack(">HHQH", spec.BasicProperties.INDEX, 0, 3, spec.BasicProperties.FLAG_HEADERS) + headers
    header = struct.pack(">BHI", spec.FRAME_HEADER, TAKEN, len(content)) + content + bytes([spec.FRAME_END])
    odd = frame.Method(TAKEN, _deliver(1)).marshal() + header + frame.Body(TAKEN, b"odd").marshal()
    link = _Link()

    link.come(odd + _delivery(TAKEN, _deliver(2), PLAIN, b"plain"))

    assert link.heard == [(TAKEN, 1, False, None, None, None, b"odd"), (TAKEN, 2, False, 9, None, None, b"plain")]
