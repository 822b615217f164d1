"""What stands in a session's control record beside its state, and how it is written: verbs, promises, reminders."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from troupe.dataplane.state.session import Entry
from troupe.v1 import promise_pb2
from troupe.v1.agent_pb2 import Verb
from troupe.v1.promise_pb2 import PromiseState


@dataclass(frozen=True, slots=True)
class Reminder:
    """A message that a session sends to itself, when it is due. It comes in the stream `reminder/NAME/ID`, with the
    numbers 1, 2, …, and its message id is the stream, `/` and the number; no other occurrence is placed while one
    waits."""

    name: str
    stream: str
    due: float
    """Seconds since the epoch."""
    every: float
    """Seconds from one occurrence to the next; 0: there is only one. What fell into one wait is made up for once."""
    digest: bytes
    envelope: bytes
    """As of the first occurrence; number, id, `first_sent` and `expires` of others follow from the entry."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a turn asks for from outside. It lives as long as the record of its message is kept."""

    id: str
    """Within the session: `MESSAGE_ID/NAME`."""
    name: str
    message_id: str
    created: float
    expires: float = 0.0
    """Seconds since the epoch; 0: never."""
    tokens: tuple[bytes, ...] = ()
    """SHA-256 of each token: every attempt that comes to the promise again gets one of its own. The newest 8."""
    approvers: tuple[str, ...] = ()
    json_schema: bytes = b""
    state: PromiseState.ValueType = promise_pb2.PROMISE_STATE_OPEN
    value: bytes = b""
    """RESOLVED: a serialized Content. REJECTED: why, as text."""
    settlement_id: str = ""
    settled_by: str = ""
    settled: float = 0.0


@dataclass(frozen=True, slots=True)
class Settlement:
    """One try to settle a promise."""

    promise_id: str
    id: str
    state: PromiseState.ValueType
    """RESOLVED or REJECTED."""
    value: bytes
    by: str
    """Name of the credential; empty where a token was shown."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The message that goes on in place of another, with some of what that has done."""

    entry: Entry
    """As it is to stand on the schedule: due at once, by the store's clock, whatever this says."""
    envelope: bytes
    journal: Mapping[str, bytes]
    """The steps that it begins with."""
    promises: Set[str]
    """Ids of the other's promises that become its own; the others are withdrawn."""
    seen: int
    """Steps that the other's journal had when this was made: with more, this is not what it says any more."""


@dataclass(frozen=True, slots=True)
class Control:
    """One verb for one message."""

    verb: Verb.ValueType
    verb_id: str
    message_id: str
    attempt: int | None = None
    """The verb is for this attempt alone; None: for whatever attempt it comes to."""
    lifts: str = ""
    """RESUME: the PAUSE that it lifts, by its verb id; empty: all."""
    status: bytes = b""
    """CANCEL, KILL and RESTART: the serialized MessageStatus of a message that is settled where it waits."""
    restart: Restart | None = None
    """RESTART: what is to go on; None where nothing was found that could."""
    dry_run: bool = False
    """Answer what would happen, and change nothing."""
