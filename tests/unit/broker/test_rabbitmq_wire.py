"""A published message as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from troupe.broker.rabbitmq import wire

FRAME_MAX = 4096
METHOD = wire.publish_frame("troupe.v1.in", "troupe.v1.mailbox.7")


def _decoded(message: bytes) -> tuple[spec.Basic.Publish, spec.BasicProperties, bytes]:
    """What pika reads from it."""
    frames = []
    while message:
        consumed, found = frame.decode_frame(message)
        assert found is not None
        assert consumed <= FRAME_MAX
        frames.append(found)
        message = message[consumed:]
    method, header, *bodies = frames
    assert isinstance(method, frame.Method)
    assert isinstance(header, frame.Header)
    body = b"".join(each.fragment for each in bodies if isinstance(each, frame.Body))
    assert header.body_size == len(body)
    assert {each.channel_number for each in frames} == {wire.CHANNEL}  # type: ignore[union-attr]
    return method.method, header.properties, body


@given(st.binary(min_size=1, max_size=1_000), st.integers(0, 2**63))
def test_a_plain_message_is_what_pika_would_write(body: bytes, published: int) -> None:
    properties = spec.BasicProperties(delivery_mode=2, timestamp=published)
    by_pika = b"".join(
        (
            METHOD,
            frame.Header(wire.CHANNEL, len(body), properties).marshal(),
            frame.Body(wire.CHANNEL, body).marshal(),
        )
    )

    assert wire.plain(METHOD, body, published) == by_pika


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
def test_any_body_comes_out_whole(size: int) -> None:
    body = bytes(each % 251 for each in range(size))

    method, properties, found = _decoded(wire.whole(METHOD, wire.properties(5, {"a": 1}, "m"), body, FRAME_MAX))

    assert found == body
    assert (method.exchange, method.routing_key, method.mandatory) == ("troupe.v1.in", "troupe.v1.mailbox.7", True)
    assert (properties.delivery_mode, properties.timestamp, properties.message_id) == (2, 5, "m")
    assert properties.headers == {"a": 1}


def test_plain_and_whole_agree() -> None:
    assert wire.whole(METHOD, wire.properties(7), b"body", FRAME_MAX) == wire.plain(METHOD, b"body", 7)


@given(st.integers(1, 2047), st.integers(1, 2**63 - 1), st.booleans())
def test_an_ack_is_what_pika_makes_of_it(channel: int, tag: int, multiple: bool) -> None:
    assert wire.ack(channel, tag, multiple=multiple) == frame.Method(channel, spec.Basic.Ack(tag, multiple)).marshal()
