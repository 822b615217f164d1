"""The body on the wire between actors: written and read here, and nowhere else. Pure."""

import hashlib

from google.protobuf.message import DecodeError

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import InvalidArgument, TroupeError
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Content, Envelope

MAX_PAYLOAD = 256 * 1024
"""Bytes of content that travel inline."""
MAX_ID = 128
"""Bytes of a message's id in UTF-8."""
MAX_SEQUENCE = 2**63 - 1
"""What stores can hold as a number."""

_KINDS = (
    envelope_pb2.ENVELOPE_KIND_MESSAGE,
    envelope_pb2.ENVELOPE_KIND_SKIP,
    envelope_pb2.ENVELOPE_KIND_PROBE,
)


class Undecodable(TroupeError):
    """A body that is no envelope, or one that names no session. Not retryable: it is dead-lettered."""


def decode(body: bytes) -> Envelope:
    """The envelope in `body`. Raises Undecodable, saying why."""
    try:
        envelope = Envelope.FromString(body)
    except DecodeError as error:
        raise Undecodable("UNDECODABLE", f"the body is no envelope ({error})") from error
    if envelope.kind not in _KINDS:
        raise Undecodable("UNDECODABLE", f"the envelope is of a kind, {envelope.kind}, that is not known here")
    if envelope.kind != envelope_pb2.ENVELOPE_KIND_PROBE and not (
        envelope.number.stream and 1 <= envelope.number.sequence <= MAX_SEQUENCE
    ):
        raise Undecodable("UNDECODABLE", "the envelope has no place in a stream")
    if envelope.kind == envelope_pb2.ENVELOPE_KIND_MESSAGE and not 0 < len(envelope.id.encode()) <= MAX_ID:
        raise Undecodable("UNDECODABLE", f"the envelope's id is not of 1 to {MAX_ID} bytes")
    try:
        SessionKey.of(envelope.target)
    except InvalidArgument as error:
        raise Undecodable("UNDECODABLE", f"the envelope names no session: {error}") from error
    return envelope


def retried(body: bytes) -> tuple[int, bytes]:
    """Which attempt at unordered work `body` is for, from 0, and the body for the next. Raises Undecodable."""
    try:
        envelope = Envelope.FromString(body)
    except DecodeError as error:
        raise Undecodable("UNDECODABLE", f"the body is no envelope ({error})") from error
    attempt = envelope.attempt
    envelope.attempt = attempt + 1
    return attempt, envelope.SerializeToString()


def check_size(content: Content) -> None:
    """Raise InvalidArgument where `content` is too large to travel."""
    if (size := content.ByteSize()) > MAX_PAYLOAD:
        raise InvalidArgument(
            "PAYLOAD_TOO_LARGE", f"content: {size} bytes are more than the {MAX_PAYLOAD} that a message may carry"
        )


def digest(content: Content) -> bytes:
    """Tells one payload from another under the same message id."""
    return hashlib.sha256(content.SerializeToString(deterministic=True)).digest()[:16]
