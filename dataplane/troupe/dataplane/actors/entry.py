"""How a message enters the inbox."""

from troupe.broker.envelope import digest
from troupe.broker.order import Number
from troupe.chassis.errors import Aborted
from troupe.chassis.wire import seconds, timestamp
from troupe.dataplane.state.session import Entry
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus
from troupe.v1.envelope_pb2 import Envelope


class SessionBusy(Aborted):
    """The message refused to wait, and would have had to. Reason SESSION_BUSY."""


def entry_of(envelope: Envelope, now: float) -> Entry:
    """Of a message that comes now. A redriven one has had its time, and waits like any other."""
    redriven = envelope.redrives > 0
    due = seconds(envelope.due) if envelope.HasField("due") and not redriven else 0.0
    return Entry(
        number=Number(envelope.number.stream, envelope.number.sequence),
        message_id=envelope.id,
        digest=digest(envelope.content),
        placed=now,
        skip=not envelope.HasField("content"),
        redriven=redriven,
        due=due,
        rejection=_rejection(envelope, max(now, due)) if envelope.reject_when_busy and not redriven else b"",
        attributes=tuple(sorted(envelope.attributes.items())) if envelope.attributes else (),
    )


def _rejection(envelope: Envelope, now: float) -> bytes:
    busy = SessionBusy("SESSION_BUSY", "something of the session ran or waited, and the message was not to wait for it")
    return MessageStatus(
        session=envelope.target,
        message_id=envelope.id,
        fate=turn_pb2.FATE_REJECTED,
        error=busy.detail(),
        settled_at=timestamp(now),
    ).SerializeToString()
