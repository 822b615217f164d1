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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.state.control import Control, Promise, Reminder, Settlement
from troupe.dataplane.state.session import (
    RETENTION,
    Attempt,
    Backlog,
    Entry,
    Loaded,
    Mark,
    Outgoing,
    Owner,
    Record,
    SessionSummary,
    Verbs,
)
from troupe.v1.agent_pb2 import VerbAnswer
from troupe.v1.promise_pb2 import SettlementAnswer
from troupe.v1.turn_pb2 import Fate


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
    skip: bool = False
    """Its number is settled in order, and nothing more: a verb has settled the message where it waited, perhaps."""


@dataclass(frozen=True, slots=True)
class Resting:
    """A message that waits, or is a dead letter, and what it has done."""

    digest: bytes
    envelope: bytes
    """Empty: its dead letter has it."""
    journal: Mapping[str, bytes]
    """Of its payload, by step."""
    steps: int
    """In all that is journaled under its id."""
    promises: Sequence[Promise] = ()
    """By id."""
    purged: bool = False
    """It was a dead letter, and that was purged: if another one is there, nobody counts on it."""


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

    async def suspend(
        self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, runs: bool = False
    ) -> bool:
        """Put a message whose attempt ended in a wait at the head of the inbox: for one of the promises in
        `entry.awaits`, or, where there are none, for RESUME. `entry.attempts` counts the attempt that ended; the mark
        goes, no start is held against it, and the session is at rest. Where the number waits already its envelope stays
        the one that it has. The same again, also without an attempt in between, only lays the session to rest.

        False where it need not wait: one of the promises is settled or unknown, or no PAUSE stands. Then nothing
        changed; but where its turn `runs` on and was laid to rest before, in this attempt, the next one has begun under
        the owner's mark. True without effect when the number is settled, waits as a SKIP, has begun another attempt
        otherwise, or was put back by `retry` in this one. Raises Fenced, CancelRecorded."""
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
        paused, TOO_LATE as above. It wakes the session.

        RESTART: APPLIED where the message waits between two attempts, or is a dead letter and does not come again, and
        has journaled nothing since `restart` was made: then it is settled as CANCELLED, with `status`, and in the same
        script the other message stands on the schedule, due at once, with its journal and promises. STALE as above;
        NOT_AT_REST where it runs, is scheduled or comes again, and without a `restart`, NOT_FOUND where nothing is
        known of it or its dead letter was purged, TOO_LATE where it has ended otherwise or a CANCEL is recorded."""
        ...

    async def resting(self, key: SessionKey, message_id: str) -> Resting | None:
        """What a RESTART needs of the message: as it waits, the foremost where copies do, or as a dead letter; None
        where it is neither, or comes again. Whether it is at rest is for `control` to say."""
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
        given for it; settle the named messages, but those that have ended meanwhile, as their records say; withdraw the
        promises of both. Records, counters and the outbox stay, and the journals of all other messages: one that comes
        again must find what it has done. Raises Fenced."""
        ...

    async def forget(self, now: float) -> None:
        """Drop records, verbs and silent streams past RECORD_KEPT, promises with their message's record, and sessions
        past their retention with nothing in inbox, outbox and schedule. `now` is in seconds since the epoch. May take
        several transactions, so that no turn waits for long."""
        ...
