"""Dead letters as clients see them. Pure.

A letter is kept whatever it holds: its times may be none and its texts no Unicode. What a message cannot say is left
out here, so that one such letter does not keep the others from being seen.
"""

import re

from google.protobuf.timestamp_pb2 import Timestamp

from troupe.broker.envelope import Undecodable, decode
from troupe.broker.port import DeadLetter
from troupe.chassis.wire import NANOS, timestamp
from troupe.dataplane.dead_letters.filter import session_of
from troupe.v1 import dead_letter_pb2, envelope_pb2
from troupe.v1.envelope_pb2 import Death, Envelope

MAX_UINT32 = 2**32 - 1
EARLIEST, LATEST = -62_135_596_800, 253_402_300_800
"""Seconds that a Timestamp can hold: from year 1 to before year 10000."""

_TRACE = re.compile(r"(?!0{32})[0-9a-f]{32}")


def message_in(letter: DeadLetter) -> Envelope:
    """What was given up. Raises Undecodable where the letter's body is no message to a session."""
    envelope = decode(letter.body)
    if envelope.kind != envelope_pb2.ENVELOPE_KIND_MESSAGE:
        kind = envelope_pb2.EnvelopeKind.Name(envelope.kind).removeprefix("ENVELOPE_KIND_")
        raise Undecodable("UNDECODABLE", f"the envelope is a {kind}, which says nothing")
    return envelope


def shown(letter: DeadLetter) -> dead_letter_pb2.DeadLetter:
    """The letter without what its message said."""
    result = dead_letter_pb2.DeadLetter(
        letter_id=letter.id,
        pool=letter.pool,
        message_id=_text(letter.message_id),
        death=death(letter),
        size=len(letter.body),
    )
    if (key := session_of(letter)) is not None:
        result.session.CopyFrom(key.ref())
    try:
        envelope = message_in(letter)
    except Undecodable:
        return result
    result.redrives = envelope.redrives
    result.earlier.extend(_readable(one) for one in envelope.deaths)
    if envelope.HasField("source"):
        result.source.CopyFrom(envelope.source)
    if envelope.HasField("first_sent") and is_moment(envelope.first_sent):
        result.first_sent.CopyFrom(envelope.first_sent)
    return result


def death(letter: DeadLetter) -> Death:
    """How the letter's message died."""
    return Death(
        reason=_text(letter.reason),
        error=_text(letter.error),
        attempts=max(0, min(letter.attempts, MAX_UINT32)),
        first_failed=_moment(letter.first_failed),
        last_failed=_moment(letter.last_failed),
        worker_id=_text(letter.worker_id),
        revision_id=_text(letter.revision_id),
        trace_id=letter.trace_id if _TRACE.fullmatch(letter.trace_id) else "",
    )


def is_moment(moment: Timestamp) -> bool:
    """Whether it is one that every reader of protobuf takes."""
    return EARLIEST <= moment.seconds < LATEST and 0 <= moment.nanos < NANOS


def _readable(told: Death) -> Death:
    """A death that came with a message, without times that are none."""
    result = Death()
    result.CopyFrom(told)
    for field in ("first_failed", "last_failed"):
        if not is_moment(getattr(result, field)):
            result.ClearField(field)
    return result


def _moment(seconds: float) -> Timestamp | None:
    return timestamp(seconds) if EARLIEST <= seconds < LATEST - 1 else None


def _text(value: str) -> str:
    return value.encode(errors="backslashreplace").decode()
