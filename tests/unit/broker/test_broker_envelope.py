"""The body on the wire: whatever it holds, decoding it answers with an envelope or with Undecodable."""

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.mailboxes import message

from troupe.broker.envelope import MAX_PAYLOAD, Undecodable, check_size, decode, digest
from troupe.chassis.errors import InvalidArgument
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Content, Data, Envelope, Number, SessionRef

BODY = message(1, text="hello").SerializeToString()


def _decodes_or_says_why(body: bytes) -> None:
    with contextlib.suppress(Undecodable):
        decode(body)


@given(st.binary(max_size=200))
def test_random_bytes_are_decoded_or_undecodable(body: bytes) -> None:
    _decodes_or_says_why(body)


@given(st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(BODY)))
@example([], len(BODY))
def test_damaged_envelopes_are_decoded_or_undecodable(damage: list[tuple[int, int]], length: int) -> None:
    body = bytearray(BODY)
    for at, byte in damage:
        body[at] = byte
    _decodes_or_says_why(bytes(body[:length]))


def test_endless_nesting_is_undecodable() -> None:
    body = b""
    for _ in range(500):
        body = b"\x1b" + body + b"\x1c"  # a group within a group
    _decodes_or_says_why(body)


@given(
    st.text(min_size=1, max_size=32),
    st.integers(1, 2**63 - 1),
    st.text(max_size=300),
    st.sampled_from([envelope_pb2.ENVELOPE_KIND_MESSAGE, envelope_pb2.ENVELOPE_KIND_SKIP]),
)
def test_what_was_written_is_read(
    stream: str, sequence: int, text: str, kind: envelope_pb2.EnvelopeKind.ValueType
) -> None:
    sent = message(sequence, text=text)
    sent.number.stream = stream
    sent.kind = kind

    assert decode(sent.SerializeToString()) == sent


def test_a_probe_needs_no_number_and_no_id() -> None:
    probe = Envelope(
        target=SessionRef(tenant="default", namespace="default", agent="clerk", session="s"),
        kind=envelope_pb2.ENVELOPE_KIND_PROBE,
    )

    assert decode(probe.SerializeToString()) == probe


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"kind": envelope_pb2.ENVELOPE_KIND_UNSPECIFIED}, "kind, 0, that is not known"),
        ({"number": Number(stream="stream", sequence=0)}, "no place in a stream"),
        ({"number": Number(stream="stream", sequence=2**63)}, "no place in a stream"),
        ({"number": Number(stream="", sequence=1)}, "no place in a stream"),
        ({"id": ""}, "id is not of 1 to 128 bytes"),
        ({"id": "é" * 65}, "id is not of 1 to 128 bytes"),
        ({"target": None}, r"names no session: session\.agent"),
        ({"target": SessionRef(agent="Not A Name", session="s")}, r"names no session: session\.agent"),
        ({"target": SessionRef(agent="clerk", session="a/b")}, r"names no session: session\.session"),
    ],
)
def test_an_envelope_that_cannot_be_handled_says_why(wrong: dict[str, Any], why: str) -> None:
    sent = message(1)
    parts: dict[str, Any] = {"id": sent.id, "target": sent.target, "number": sent.number, "kind": sent.kind}

    with pytest.raises(Undecodable, match=why) as refused:
        decode(Envelope(**(parts | wrong)).SerializeToString())

    assert refused.value.reason == "UNDECODABLE"
    assert not refused.value.retryable


def test_a_kind_of_a_later_version_is_undecodable() -> None:
    body = BODY.replace(b"\x28\x01", b"\x28\x63", 1)  # field 5, kind: 99

    with pytest.raises(Undecodable, match="kind, 99, that is not known here"):
        decode(body)


def test_content_up_to_the_limit_travels() -> None:
    content = Content(data=Data(content_type="application/octet-stream", value=b"x" * (MAX_PAYLOAD - 35)))
    check_size(content)
    content.data.value += b"x" * 100

    with pytest.raises(InvalidArgument, match=f"are more than the {MAX_PAYLOAD}"):
        check_size(content)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_digest_tells_one_payload_from_another(one: str, other: str) -> None:
    assert (digest(Content(text=one)) == digest(Content(text=other))) == (one == other)


def test_text_and_data_of_the_same_bytes_are_two_payloads() -> None:
    assert digest(Content(text="a")) != digest(Content(data=Data(value=b"a")))
