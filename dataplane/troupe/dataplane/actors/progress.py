"""Whether a shard's messages get on: what was taken and settled, and what could run now and does not."""

from dataclasses import dataclass
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.v1 import turn_pb2
from troupe.v1.turn_pb2 import LedgerCause

STORE: Final = turn_pb2.LEDGER_CAUSE_STATE_STORE
BROKER: Final = turn_pb2.LEDGER_CAUSE_BROKER_WAIT
CODE: Final = turn_pb2.LEDGER_CAUSE_UNSPECIFIED
"""What the agent or actor does itself."""


@dataclass(slots=True)
class Progress:
    """Counts of one shard, since its worker has it."""

    taken: int = 0
    """Messages that its mailbox brought, each time that it did."""
    settled: int = 0
    """Messages that a turn settled."""


@dataclass(frozen=True, slots=True)
class HeldUp:
    """A message that could run now and does not, or a turn whose time is over; or a whole shard that cannot be taken.
    What waits for something else than the worker is not held up: for a retry, for other messages, for another owner, or
    behind a turn that is within its deadline."""

    since: float
    """Clock.monotonic(). For a turn that may still take its time this lies ahead."""
    cause: LedgerCause.ValueType
    """What the worker waits for."""
    key: SessionKey | None = None
    """The session; None for a whole shard."""
    message_id: str = ""
    """Empty where the worker does not know the message yet."""
