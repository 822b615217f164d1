"""Dead letters for tests, built shortly."""

from dataclasses import replace
from typing import Any

from support.mailboxes import message

from troupe.broker.addressing import SessionKey
from troupe.broker.port import DeadLetter
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import timestamp
from troupe.v1.envelope_pb2 import Envelope

DIED = 1_700_000_000.0
"""When letters died unless a test says otherwise."""


def given_up(sequence: int = 1, session: str = "s", text: str = "hello") -> Envelope:
    """A message to `clerk`, good for an hour from a minute before it died."""
    envelope = message(sequence, stream="first", session=session, text=text)
    envelope.first_sent.CopyFrom(timestamp(DIED - 60))
    envelope.expires.CopyFrom(timestamp(DIED - 60 + 3600))
    return envelope


def letter(envelope: Envelope | None = None, **parts: Any) -> DeadLetter:
    """A letter of that message, or of a message of its own; `parts` are fields that differ."""
    envelope = envelope or given_up()
    made = DeadLetter(
        id=uuid7(),
        body=envelope.SerializeToString(),
        pool="agents",
        message_id=envelope.id,
        session=SessionKey.of(envelope.target).path,
        reason="MODEL_ERROR",
        error="the model answered 500",
        attempts=4,
        first_failed=DIED - 5,
        last_failed=DIED,
        worker_id="worker-0",
        revision_id="revision-1",
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )
    return replace(made, **parts)


def undecodable(body: bytes = b"\xff\xfe nonsense", **parts: Any) -> DeadLetter:
    """A letter of something that is no message."""
    return letter(body=body, message_id="", session="", reason="UNDECODABLE", attempts=0, **parts)
