"""How messages end, in the words of events, errors and records."""

from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import AlreadyExists
from troupe.chassis.wire import timestamp
from troupe.dataplane.state.errors import CancelRecorded
from troupe.dataplane.state.session import Record
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus
from troupe.v1.turn_pb2 import Completed, Failed

MESSAGE_ID_USED: Final = "MESSAGE_ID_USED"
"""Reason of the error that a copy with another payload is answered with."""


def refused(message_id: str) -> Failed:
    """The answer to a copy with another payload, as an event."""
    return Failed(fate=turn_pb2.FATE_SKIPPED, error=message_id_used(message_id).detail())


def message_id_used(message_id: str) -> AlreadyExists:
    """The same, as an error."""
    return AlreadyExists(
        MESSAGE_ID_USED,
        f"message id {message_id} was used for other content in this session; choose another id",
        metadata={"source": "turn"},
    )


def stored(status: MessageStatus) -> Completed | Failed:
    """The last event of a message that was settled before."""
    if status.fate == turn_pb2.FATE_DONE:
        return Completed(
            result=status.result,
            usage=status.usage,
            ledger=status.ledger,
            state_version=status.state_version,
            stored=True,
        )
    return Failed(fate=status.fate, error=status.error, ledger=status.ledger, stored=True)


def cancelled_record(
    key: SessionKey,
    message_id: str,
    digest: bytes,
    attempts: int,
    now: float,
    said: str = "the message was cancelled",
    *,
    restarted_as: str = "",
) -> Record:
    """How a cancelled message ends. `restarted_as`: the id of the message that goes on in its place."""
    error = CancelRecorded("CANCELLED", said)
    if restarted_as:
        error = CancelRecorded("RESTARTED", f"the message was restarted: {restarted_as} goes on in its place")
    status = MessageStatus(
        session=key.ref(),
        message_id=message_id,
        fate=turn_pb2.FATE_CANCELLED,
        error=error.detail(),
        restarted_as=restarted_as,
        attempts=attempts,
        settled_at=timestamp(now),
    )
    return Record(status.fate, status.SerializeToString(), digest)
