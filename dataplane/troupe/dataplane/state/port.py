"""What every state store can do: a few scripts, each of them atomic and durable when it returns.

An owner's script carries its shard's (epoch, instance); epochs begin at 1. The store's fence record only grows: a
lower epoch, or the same with another instance, is refused as Fenced. A higher one raises the record with whatever
script it comes, claim or not: from then on the owner before is refused. The writes of a turn (`journal`, `retry`,
`commit`) are let through all the same while its message stands in the inbox under that owner's mark: so a turn that
goes on after its shard was handed over comes to its end, unless the new owner has taken it over. A script that is
refused, for whatever reason, changes nothing. What is refused is said by `state/rules.py` for every backend, and one
contract suite runs over all of them.

The writes of a turn also carry the attempt that they belong to (`Attempt`): one that is carried out after its attempt
has ended changes nothing.

All raise Unavailable where the store cannot be used; whether the script was carried out is then not known, and it
may be repeated: repeating any of them changes nothing more, and neither does one that is carried out late, after
the attempt that it belongs to has ended.

Beside its state each session has a control record: the verbs recorded for its messages, its promises, and what is on
the schedule. `control` and `settle_promise` write it for anybody, outside the fence; each script that starts a step,
suspends, puts an attempt back or settles reads it, so the store alone decides what came first. What is due and what
has expired is judged by the store's own clock.
"""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Protocol

from google.rpc import code_pb2

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.chassis.errors import Aborted, TroupeError
from troupe.v1 import promise_pb2
from troupe.v1.agent_pb2 import Verb, VerbAnswer
from troupe.v1.promise_pb2 import PromiseState, SettlementAnswer
from troupe.v1.turn_pb2 import Fate

RETENTION = 30 * 24 * 3600.0
"""Seconds after which the state and history of an untouched session go, where its agent says nothing else."""
RECORD_KEPT = 24 * 3600.0
"""Seconds that records, verbs and the counters of silent streams are kept. DEAD and EXPIRED stay until redriven; a
verb stays while its message waits, a counter while anything of its stream does."""
RECENT = 256
"""Message ids that `load` returns at most."""


class Fenced(TroupeError):
    """The shard has another owner: `epoch` is the store's. The writer must stop, at once and without a trace."""

    code = code_pb2.ABORTED

    def __init__(self, shard: int, epoch: int) -> None:
        super().__init__("FENCED", f"shard {shard} belongs to another owner, under epoch {epoch}")
        self.epoch = epoch


class VersionConflict(Aborted):
    """The store has the session otherwise than the turn read it: load it, look at the message again."""


class Marked(Aborted):
    """The message stands under another owner's mark: its turn may still be going on there."""


class CancelRecorded(TroupeError):
    """A CANCEL or a KILL was recorded for the message, or has settled it: it may only be settled as CANCELLED. `kill`:
    without compensations."""

    code = code_pb2.CANCELLED

    def __init__(self, reason: str, message: str, *, kill: bool = False) -> None:
        super().__init__(reason, message)
        self.kill = kill


class PauseRecorded(Aborted):
    """The message is paused: it may start no step and not end as DONE. Suspend it."""


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
    """CANCEL and KILL: the serialized MessageStatus of a message that is settled where it waits."""
    dry_run: bool = False
    """Answer what would happen, and change nothing."""


@dataclass(frozen=True, slots=True)
class Verbs:
    """The ids of a session's messages that verbs are recorded for and that are not settled for good."""

    cancelled: Set[str] = frozenset()
    """CANCEL or KILL."""
    killed: Set[str] = frozenset()
    paused: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Claimed:
    """What an owner is to take up."""

    due: Sequence[SessionKey] = ()
    """Sessions with something in the inbox or the outbox, but those at rest: what comes next in them is suspended, and
    nothing that concerns them has happened since."""
    verbs: Sequence[SessionKey] = ()
    """Sessions with a verb recorded that is not obeyed yet: for what is in memory of them."""


@dataclass(frozen=True, slots=True)
class Due:
    """What the schedule came to."""

    sessions: Sequence[SessionKey]
    """In which something changed: a message took its place, or a promise expired."""
    following: float | None
    """Seconds until the next is due, 0 where more is due already; None: nothing is on the schedule."""


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


class Placed(Enum):
    """What `put` came to."""

    NEW = auto()
    PRESENT = auto()
    """Its number waits already."""
    SETTLED = auto()
    """Its number is settled."""
    SKIPPED = auto()
    """It takes its place as a SKIP: it was one, or is a copy of a message that waits or has a record, or a CANCEL was
    recorded before it came, or it refused to wait; that settled it, so that it has a record now."""
    SCHEDULED = auto()
    """It is on the schedule."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a turn from the inbox begins with."""

    envelope: bytes
    journal: Mapping[str, bytes]
    """What earlier attempts journaled, by step: of the same message and payload, under whatever number."""
    promises: Sequence[Promise] = ()
    """That they made, by id."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A message that one turn settles beside its first."""

    number: Number
    message_id: str
    attempt: int
    """Index of the attempt that this is the end of."""
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCommit:
    """The one write of a turn."""

    key: SessionKey
    number: Number
    message_id: str
    record: Record | None
    """None settles the number only: a SKIP, or a copy of a message that has a record."""
    version: int
    """The version that the turn read; looked at when the fate is DONE."""
    state: bytes | None = None
    """The new state; None keeps the old one."""
    history: bytes | None = None
    """What to append to the history."""
    usage: bytes | None = None
    """The session's summed Usage."""
    attempt: int = 0
    """Index of the attempt that this is the end of."""
    outbox: Sequence[Outgoing] = ()
    """What the turn sent, in order; looked at when the fate is DONE. The numbers are the sender's to give out, from
    what it loaded: the version guards them."""
    companions: Sequence[Companion] = ()
    """Other messages of the turn, in the order in which they waited: all are settled, or none. Only with DONE."""
    snapshot: bytes | None = None
    """Takes the place, for `load`, of all deltas up to and with this commit's own."""
    remind: Sequence[Reminder] = ()
    """Takes the place of what is on the schedule under these names; looked at when the fate is DONE."""
    forget_reminders: Sequence[str] = ()
    """Names of reminders to take from the schedule; looked at when the fate is DONE."""
    retention: float = RETENTION
    """Seconds after which the session goes when nothing follows."""
    now: float


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


class StateStore(Protocol):
    """See the module's text."""

    async def declare(self, shards: int) -> None:
        """Say how many shards the fleet has, from 1: before anything else is asked. An owner's shard is its sessions',
        `SessionKey.shard(shards)`. Repeating it changes nothing. Raises FailedPrecondition for another number than the
        store was made for: its sessions would not be found."""
        ...

    async def claim(self, owner: Owner) -> Claimed:
        """Raise the fence of the owner's shard and return what there is to take up, in one script, in no order. Raises
        Fenced."""
        ...

    async def due(self, owner: Owner, busy: Collection[SessionKey] = ()) -> Due:
        """Let what is due take its place at the end of its inbox, and expire promises: at most 1,000 of both. `busy`
        are sessions in which a turn runs whose message does not wait. A copy of a message that waits, runs or has a
        record becomes a SKIP; what refuses to wait is settled as REJECTED where its session is busy or anything waits
        there. Raises Fenced."""
        ...

    async def load(self, key: SessionKey) -> Loaded:
        """The session, all of it as of one moment."""
        ...

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool = False) -> Placed:
        """Place a message at the inbox's end, or, before it is `due`, on the schedule; one that runs already
        (`entry.running`, whose attempt `entry.attempts` counts) at the inbox's head. A number that is settled stays so,
        and one that waits stays as it is, but that `entry.running` marks it, in its place, while that attempt has not
        ended and no other mark stands there. `busy`: a turn of the session runs whose message does not wait; that, or
        anything live in the inbox, settles a message with a `rejection` and no journal. Raises Fenced."""
        ...

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        """Count one more start, and one more attempt, than `entry` has; nothing where the store has counted that
        already. The mark goes, and what it awaited. A CANCEL does not keep it from beginning: its turn settles it.
        Raises Fenced; KeyError when the inbox does not hold the number; Marked where it stands under another owner's
        mark: `take_over` comes first; and, unless it is cancelled or a SKIP, KeyError where it awaits promises, none of
        them settled, and PauseRecorded where it is paused."""
        ...

    async def take_over(self, owner: Owner, key: SessionKey, number: Number, mark: Mark) -> bool:
        """Take the mark from a message, so that what ran under it is refused from now on: the message waits, at the
        inbox's head, and the start of what ran is counted, where it was not. False, and nothing changed, where it does
        not wait under this mark. Raises Fenced."""
        ...

    async def journal(
        self,
        owner: Owner,
        key: SessionKey,
        attempt: Attempt,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        """Keep what these steps came to; a step of this payload that is kept already stays as it is. Nothing when the
        message is settled for good, or the attempt has ended. `starts`: something that acts begins with it, and must
        not where nothing is kept: VersionConflict then. `promises` are open from then on; one that is there already
        stays as it is, but that tokens are added. Raises Fenced; when `starts`, CancelRecorded and PauseRecorded, of
        which only a KILL stops what `compensates`."""
        ...

    async def suspend(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> bool:
        """Put a message whose attempt ended in a wait at the head of the inbox: for one of the promises in
        `entry.awaits`, or, where there are none, for RESUME. `entry.attempts` counts the attempt that ended; the mark
        goes, no start is held against it, and the session is at rest. Where the number waits already its envelope stays
        the one that it has. The same again, also without an attempt in between, only lays the session to rest.

        False, and nothing changed, where it need not wait: one of the promises is settled or unknown, or no PAUSE
        stands. True without effect when the number is settled, waits as a SKIP, has begun another attempt since, or
        was put back by `retry` in this one. Raises Fenced, CancelRecorded."""
        ...

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        """Put a message whose attempt ended at the head of the inbox, as `entry` says; `entry.attempts` counts the one
        that ended, and the mark goes. Where the number waits already its envelope stays the one that it has. Nothing
        when the number is settled, waits as a SKIP, or has begun another attempt since. Raises Fenced,
        CancelRecorded."""
        ...

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        """Settle the message, under all checks: state, record, history, inbox, outbox, journal and order in one
        script; its copies that wait become SKIPs. Returns the session's version. Where its number is settled already,
        or the attempt has ended, nothing changes. State, usage, history and outbox change, and the version grows by
        one, only when the fate is DONE. A message settled for good withdraws its open promises.

        A record stays as it is, but DEAD and EXPIRED, which DONE, CANCELLED, DEAD and EXPIRED replace; until then the
        journal is kept with them, as long as they are.

        Raises Fenced; CancelRecorded for any fate but CANCELLED, and PauseRecorded for DONE, for a companion too;
        VersionConflict for DONE when the version is another or the message is settled for good, for a companion that
        is settled, gone or has ended its attempt, and for a None record when the message waits live and has no record;
        ValueError when a number is not the next of its stream once those before it are settled."""
        ...

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        """Give up `number` and those after it, `count` in all: the first must come next in its stream, and none of
        them be in the inbox. False when that is not so, and nothing changed (also when they were given up before).
        Raises Fenced."""
        ...

    async def strike(self, owner: Owner, key: SessionKey, numbers: Sequence[Number]) -> None:
        """Take from the outbox what the broker has confirmed; what is not there is passed by. Raises Fenced."""
        ...

    async def backlog(self, shard: int) -> Backlog:
        """What waits in all inboxes of the shard, SKIPs included. Cheap whatever there is."""
        ...

    async def session_backlog(self, key: SessionKey) -> Backlog:
        """What waits in one session's inbox, SKIPs included. Cheap whatever there is."""
        ...

    async def redrive(self, key: SessionKey, message_id: str, number: Number) -> None:
        """A copy of the message's dead letter was sent under this number: until that is settled, its record, where it
        is DEAD or EXPIRED, says that it is no end, and stays with its journal. Outside the fence. Nothing where the
        number is settled."""
        ...

    async def purge(self, key: SessionKey, message_id: str) -> None:
        """The dead letter of this message was purged: its record, where it is DEAD or EXPIRED, is kept no longer than
        others, and the journal with it. Outside the fence. Nothing where the record is `redriven`."""
        ...

    async def record(self, key: SessionKey, message_id: str) -> Record | None:
        """How the message ended. None while it has not, or when nothing is known of it."""
        ...

    async def waiting(self, key: SessionKey, message_id: str) -> Entry | None:
        """The message as it waits, the foremost where copies do, or, `due`, as it stands on the schedule; None when it
        does neither, or waits only as a SKIP."""
        ...

    async def control(self, key: SessionKey, control: Control) -> VerbAnswer.ValueType:
        """Record a verb, outside the fence; a verb id that was seen gets its first answer for the message and does
        nothing. Whatever was APPLIED or PENDING binds until the message is settled, or RESUME lifts the PAUSE.

        CANCEL, KILL: APPLIED where the message waits, is scheduled, or has a journal; TOO_LATE where it has a record
        that stays, or is a dead letter and does not come again; STALE where `attempt` is another than the one that it
        is in; PENDING where nothing is known of it. A recorded KILL stays one. A message that waits between attempts,
        or is scheduled, and has no journal, is settled at once, with `status` and the digest that waits, and keeps its
        place as a SKIP, due at once where it was scheduled; one that is PENDING is when `put` brings it. Any other is
        settled by its turn.

        PAUSE: the same, but that nothing is settled; TOO_LATE also where a CANCEL is recorded, STALE also where a
        RESUME that names it came before. RESUME: APPLIED where it lifts something, NOT_FOUND where the message is not
        paused, TOO_LATE as above. It wakes the session."""
        ...

    async def verbs(self, key: SessionKey) -> Verbs:
        """What is recorded now."""
        ...

    async def settle_promise(self, key: SessionKey, settlement: Settlement) -> SettlementAnswer.ValueType:
        """Give the promise its end, and wake what waits for it, outside the fence. The first settlement is APPLIED, and
        so is its repeat, by its id; any other is answered as the promise stands: DUPLICATE, EXPIRED (also where its
        time is over and nobody has said so yet), WITHDRAWN. KeyError where there is no such promise."""
        ...

    async def promise(self, key: SessionKey, promise_id: str) -> Promise | None:
        """The promise as it stands."""
        ...

    async def promises(
        self, prefix: str, after: tuple[int, str, str] | None, limit: int, *, settled: bool = False
    ) -> Sequence[tuple[int, SessionKey, Promise]]:
        """Promises of sessions whose path begins with `prefix`, each with its shard, by (shard, path, id), beyond
        `after`: at most `limit`, fewer only at the end. Open ones, or all that are kept."""
        ...

    async def messages(
        self, shard: int, prefix: str, after: tuple[str, str] | None, limit: int
    ) -> Sequence[tuple[SessionKey, Entry, Fate.ValueType]]:
        """What waits (WAITING, PAUSED) or is scheduled (SCHEDULED) in the shard's sessions whose path begins with
        `prefix`, without SKIPs and copies, by (path, message id), beyond `after`: at most `limit`, fewer only at the
        end."""
        ...

    async def history(self, key: SessionKey, before: int | None, limit: int) -> Sequence[tuple[int, bytes]]:
        """Deltas, newest first, each with the session's version that it led to: those below version `before`, or the
        newest; at most `limit`, fewer only at the end."""
        ...

    async def summary(self, key: SessionKey) -> SessionSummary | None:
        """The session for `GetSession`; None before its first turn that ended DONE, and after its deletion."""
        ...

    async def summaries(
        self, prefix: str, after: tuple[int, str] | None, limit: int
    ) -> Sequence[tuple[int, SessionSummary]]:
        """Sessions whose path begins with `prefix`, each with its shard, by (shard, path), beyond `after`: at most
        `limit`, fewer only at the end."""
        ...

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        """Drop state and history, reminders and what is on the schedule, which is settled as CANCELLED with the record
        given for it; settle the named messages, which wait, as their records say; withdraw the promises of both.
        Records, counters and the outbox stay, and the journals of all other messages: one that comes again must find
        what it has done. Raises Fenced."""
        ...

    async def forget(self, now: float) -> None:
        """Drop records, verbs and silent streams past RECORD_KEPT, promises with their message's record, and sessions
        past their retention with nothing in inbox, outbox and schedule. `now` is in seconds since the epoch. May take
        several transactions, so that no turn waits for long."""
        ...


def begun(entry: Entry) -> Entry:
    """`entry` after `begin`."""
    return replace(entry, starts=entry.starts + 1, attempts=entry.attempts + 1, running=None)
