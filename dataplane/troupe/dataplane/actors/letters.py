"""Dead letters of turns."""

from typing import Final

from opentelemetry import trace

from troupe.broker.addressing import SessionKey
from troupe.broker.port import DeadLetter
from troupe.chassis.errors import TroupeError
from troupe.chassis.ids import uuid7
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.turn import Turn

POOL: Final = "agents"


def letter_of(
    key: SessionKey, turn: Turn, error: TroupeError, *, worker_id: str, behaviour: Behaviour | None, now: float
) -> DeadLetter:
    """What is left of a message that is given up over `error`."""
    return DeadLetter(
        id=uuid7(),
        body=turn.envelope.SerializeToString(),
        pool=POOL,
        message_id=turn.message_id,
        session=key.path,
        reason=error.reason,
        error=str(error),
        attempts=turn.attempts,
        first_failed=turn.entry.first_failed or now,
        last_failed=now,
        worker_id=worker_id,
        revision_id=behaviour.revision_id if behaviour else "",
        trace_id=turn.envelope.traceparent[3:35]
        or format(trace.get_current_span().get_span_context().trace_id, "032x"),
    )
