"""What a state store keeps of a session: its inbox, outbox, history and records, and who may write them."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.v1.turn_pb2 import Fate

RETENTION = 30 * 24 * 3600.0
"""Seconds after which the state and history of an untouched session go, where its agent says nothing else."""
RECORD_KEPT = 24 * 3600.0
"""Seconds that records, verbs and the counters of silent streams are kept. DEAD and EXPIRED stay until redriven; a
verb stays while its message waits, a counter while anything of its stream does."""
RECENT = 256
"""Message ids that `load` returns at most."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who writes: the process that holds a shard, under the epoch that it was given."""

    shard: int
    epoch: int
    instance: str

    @property
    def mark(self) -> "Mark":
        """What this owner writes to the inbox beside a message whose turn it runs."""
        return Mark(self.epoch, self.instance)


@dataclass(frozen=True, slots=True)
class Mark:
    """Under which name a turn goes on whose message was written to the inbox while it ran."""

    epoch: int
    instance: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one message under one number. `index` counts from 0; the store calls it ended when the number is
    settled, or waits with more than `index` + 1 attempts begun, or with just as many and neither a start nor a
    mark."""

    number: Number
    message_id: str
    index: int
    digest: bytes
    """The payload's: what one payload has done is nothing to another that came under its message's id."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message that a turn sent and that no broker has confirmed yet."""

    target: str
    """Path of the session that it is for."""
    number: Number
    """In this session's stream to the target."""
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """How far a session's stream to one target has come."""

    number: Number
    """The last that was given out."""
    at: float
    """When, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in inboxes."""

    messages: int
    bytes: int
    """Of envelopes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message in a session's inbox, without its envelope. Times are seconds since the epoch."""

    number: Number
    message_id: str
    digest: bytes
    placed: float
    skip: bool = False
    """Its number is settled in order, and nothing more: it was a SKIP, a copy, or cancelled where it waited."""
    attempts: int = 0
    """Attempts begun, as far as the store was told."""
    failures: int = 0
    """Attempts that ended in an error."""
    starts: int = 0
    """Starts from the inbox since the last attempt that came to an end."""
    not_before: float = 0.0
    first_failed: float = 0.0
    running: Mark | None = None
    """Written here while its turn ran on, because that took long or its shard was handed over."""
    redriven: bool = False
    """It comes from a dead letter: an older record DEAD or EXPIRED does not make it a copy."""
    due: float = 0.0
    """When it takes its place, where it is on the schedule; 0 once it has, as for a message that never was there. Then
    `placed` is when it was due."""
    rejection: bytes = b""
    """The serialized MessageStatus that it is settled with, REJECTED, where anything of its session runs or waits when
    it is first placed. Empty: it waits."""
    awaits: tuple[str, ...] = ()
    """Ids of promises, one of which it waits for; the store empties it when one of them is settled."""
    suspended: float = 0.0
    """When its last attempt ended in a wait, for promises or for RESUME; 0 where it ended otherwise."""
    attributes: tuple[tuple[str, str], ...] = ()
    """What selectors see of it, by key."""


@dataclass(frozen=True, slots=True)
class Record:
    """How a message ended: `status` is its serialized MessageStatus, `digest` its payload's."""

    fate: Fate.ValueType
    status: bytes
    digest: bytes
    redriven: bool = False
    """It is no end, for now: DEAD or EXPIRED, and a redriven copy is on its way, waits or runs. Only read, not
    written."""


@dataclass(frozen=True, slots=True)
class Verbs:
    """The ids of a session's messages that verbs are recorded for and that are not settled for good."""

    cancelled: Set[str] = frozenset()
    """CANCEL or KILL."""
    killed: Set[str] = frozenset()
    paused: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Loaded:
    """One session as the store has it. A session that it does not know has version 0."""

    version: int = 0
    state: bytes = b""
    snapshot: bytes = b""
    """What a turn made of the history up to and with its own delta; empty: none did."""
    history: Sequence[bytes] = ()
    """One delta for each turn that changed it since the snapshot, oldest first."""
    positions: Mapping[str, Position] = field(default_factory=dict)
    inbox: Sequence[Entry] = ()
    recent: Sequence[str] = ()
    """Ids of messages with a record: all of them when fewer than RECENT."""
    verbs: Verbs = field(default_factory=Verbs)
    journaled: Set[str] = frozenset()
    """Ids of messages that have a journal and are not settled for good: DEAD and EXPIRED ones have, for a redriven
    copy to find."""
    outbox: Sequence[Outgoing] = ()
    """What was sent and is not struck, in the order in which it was sent."""
    sent: Mapping[str, Sent] = field(default_factory=dict)
    """By path of the target."""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One session for lists."""

    key: SessionKey
    version: int
    turns: int
    waiting: int
    usage: bytes
    created: float
    updated: float
    scheduled: int = 0
    """Messages on the schedule, reminders included."""


def begun(entry: Entry) -> Entry:
    """`entry` after `begin`."""
    return replace(entry, starts=entry.starts + 1, attempts=entry.attempts + 1, running=None)
