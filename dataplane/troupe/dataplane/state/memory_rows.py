"""What the store in memory keeps of a session: each is what other stores have in a row of its own."""

from dataclasses import dataclass, field

from troupe.broker.order import Number, Position
from troupe.dataplane.state.control import Reminder
from troupe.dataplane.state.session import RETENTION, Record
from troupe.v1.agent_pb2 import Verb, VerbAnswer


@dataclass(slots=True)
class Talk:
    """What turns that end DONE change, and deleting the session drops."""

    version: int = 0
    turns: int = 0
    state: bytes = b""
    usage: bytes = b""
    created: float = 0.0
    updated: float = 0.0
    retention: float = RETENTION
    snapshot: bytes = b""
    snapshot_version: int = 0
    history: list[tuple[int, bytes]] = field(default_factory=list)
    """Deltas, each with the version that it led to."""


@dataclass(frozen=True, slots=True)
class Stream:
    position: Position
    touched: float


@dataclass(frozen=True, slots=True)
class Kept:
    record: Record
    settled: float
    stays: bool
    """However old it is."""
    awaits: Number | None = None
    """Under which number a redriven copy is on its way."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A verb that was recorded for a message."""

    verb: Verb.ValueType
    answer: VerbAnswer.ValueType
    lifts: str
    status: bytes
    at: float
    binds: bool


@dataclass(frozen=True, slots=True)
class Reminding:
    reminder: Reminder
    held: bool = False
    """It is due and waits until the occurrence before is settled."""
