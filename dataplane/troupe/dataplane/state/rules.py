"""What the scripts of every store decide, from what they found. Pure: one rule for all backends.

A script reads, asks the rule, then writes; a rule that refuses raises, so nothing is half done. The order within a
script is the same everywhere: the fence; whether the number is settled or the attempt has ended; a CANCEL or KILL; a
PAUSE; the rest. What a verb comes to is said in `state/verbs.py`, how a promise ends in `state/promises.py`, what takes
its place when it is due in `state/schedule.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from troupe.broker.order import Number, Place, Position
from troupe.chassis.errors import FailedPrecondition
from troupe.dataplane.state.errors import Fenced, Marked, VersionConflict
from troupe.dataplane.state.port import Companion, Placed, TurnCommit
from troupe.dataplane.state.session import Attempt, Entry, Mark, Owner, Record, begun
from troupe.dataplane.state.verbs import FREE, Bound, refuse_cancelled, refuse_paused
from troupe.v1 import turn_pb2
from troupe.v1.turn_pb2 import Fate

REDRIVABLE = (turn_pb2.FATE_DEAD, turn_pb2.FATE_EXPIRED)
"""Fates that are kept, with the journal, until the message is redriven or its dead letter purged."""
REDRIVEN = (turn_pb2.FATE_DONE, turn_pb2.FATE_CANCELLED, *REDRIVABLE)
"""Fates that may take the place of those. Any other is first or not at all: a SKIP never hides how a message ended."""
UNCLAIMED = (0, "")
"""The fence record of a shard that nobody has claimed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a store has on a message, and on its number, when a script of its turn begins."""

    position: Position
    """Of the number's stream."""
    waits: Entry | None
    """What stands in the inbox under the number."""
    fate: Fate.ValueType | None
    """Of the record that the message has."""
    bound: Bound = FREE
    """The verbs that bind the message."""
    version: int = 0
    """Of the session."""


class Suspending(Enum):
    """What `suspend` comes to."""

    OVER = auto()
    """Nothing changes: the number is settled, or the attempt has ended otherwise."""
    GOES_ON = auto()
    """Nothing changes: it need not wait."""
    RUNS_ON = auto()
    """It need not wait any more, and was laid to rest: its next attempt has begun, under its owner's mark."""
    RESTS = auto()
    """It waits as it should: the session is laid to rest."""
    PLACED = auto()
    """It takes its place at the head, and the session is laid to rest."""


def raises_fence(owner: Owner, record: tuple[int, str], turn: Entry | None = None) -> bool:
    """Whether the fence record, (epoch, instance), must become the owner's. `turn`: of a turn's write, what waits under
    its number; under the owner's mark it is let through, and the record stays. Raises Fenced."""
    epoch, instance = record
    if owner.epoch < epoch or (owner.epoch == epoch and owner.instance != instance):
        if turn is None or turn.running != owner.mark:
            raise Fenced(owner.shard, epoch)
        return False
    return owner.epoch > epoch


def has_ended(waits: Entry | None, attempts: int) -> bool:
    """Whether the attempt with which `attempts` have begun has ended, its number not being settled. `waits`: what
    stands in the inbox under the number; on the fast path nothing does."""
    if waits is None or waits.attempts < attempts:
        return False
    return waits.attempts > attempts or not (waits.starts or waits.running)


def place(
    entry: Entry,
    position: Position,
    *,
    waits: bool,
    live: bool,
    busy: bool,
    fate: Fate.ValueType | None,
    journaled: bool,
    tombstone: bytes | None,
    now: float,
) -> tuple[Placed, Record | None]:
    """What `put` comes to, and the record that it leaves; also of a scheduled message that is due. `waits`: its number
    stands in the inbox or, of a `put`, on the schedule; `live`: its message does elsewhere, and not as a SKIP; `busy`:
    anything of its session runs, or is live in the inbox; `fate`: of its record; `tombstone`: the status of a CANCEL
    or KILL that came first."""
    if position.place(entry.number.sequence) is Place.SETTLED:
        return Placed.SETTLED, None
    if waits:
        return Placed.PRESENT, None
    if entry.skip:
        return Placed.SKIPPED, None
    if entry.running:
        return Placed.NEW, None
    if live or is_copy(entry, fate):
        return Placed.SKIPPED, None
    if tombstone is not None and not journaled:
        return Placed.SKIPPED, Record(turn_pb2.FATE_CANCELLED, tombstone, entry.digest)
    if entry.due > now:
        return Placed.SCHEDULED, None
    if entry.rejection and busy and not journaled:
        return Placed.SKIPPED, Record(turn_pb2.FATE_REJECTED, entry.rejection, entry.digest)
    return Placed.NEW, None


def wakes(placed: Entry) -> bool:
    """Whether the session rests no more when this is placed in its inbox: other things wait behind what it rests on."""
    return placed.running is not None or placed.redriven


def is_awaited(position: Position, number: Number, fate: Fate.ValueType | None) -> bool:
    """Whether a redriven copy that was sent under `number` is the next try of a message with this fate. `position`: of
    the number's stream."""
    return fate in REDRIVABLE and position.place(number.sequence) is not Place.SETTLED


def is_next_try(entry: Entry, fate: Fate.ValueType | None) -> bool:
    """Whether the entry, as it is placed, is what a message of this fate goes on with."""
    return entry.redriven and not entry.skip and fate in REDRIVABLE


def is_copy(entry: Entry, fate: Fate.ValueType | None) -> bool:
    """Whether a message that waits nowhere has had its end. A redriven one is the next try of what ended DEAD or
    EXPIRED; where there is no such record any more, it was redriven before, or its dead letter purged."""
    return fate not in REDRIVABLE if entry.redriven else fate is not None


def marks(entry: Entry, waits: Entry) -> bool:
    """Whether `put` writes the mark of `entry` to what waits under its number: it runs under it."""
    return (
        entry.running is not None
        and waits.running is None
        and not waits.skip
        and waits.message_id == entry.message_id
        and not has_ended(waits, entry.attempts)
    )


def started(owner: Owner, entry: Entry, waits: Entry | None, bound: Bound) -> Entry:
    """What waits, after `begin` with the caller's `entry`: as it is when that start was counted already. `bound`: the
    verbs that bind its message. Raises KeyError, Marked, PauseRecorded."""
    if waits is None:
        raise KeyError(entry.number)
    if waits.running is not None and waits.running != owner.mark:
        raise marked(waits.message_id, waits.running)
    if waits.attempts > entry.attempts:
        return waits
    if not (waits.skip or bound.cancelled):
        if waits.awaits:
            raise KeyError(entry.number)
        refuse_paused(waits.message_id, bound)
    counted = begun(entry)
    return replace(waits, starts=counted.starts, attempts=counted.attempts, running=None, awaits=())


def taken_over(waits: Entry | None, mark: Mark) -> Entry | None:
    """What waits, after `take_over`, at the inbox's head; None when it does not wait under `mark`."""
    if waits is None or waits.running != mark:
        return None
    # A turn that began on the fast path was not counted when it started; one from the inbox was.
    return replace(waits, running=None, starts=max(1, waits.starts))


def may_keep(attempt: Attempt, found: Found, *, starts: bool, compensates: bool) -> bool:
    """Whether steps may be added to the journal: after the end only late writes come. Raises CancelRecorded,
    PauseRecorded and VersionConflict when something `starts`; the result of what started before is never refused, and
    of verbs only a KILL refuses what `compensates`."""
    over = _is_over(found, attempt.number, attempt.index + 1)
    if starts and not over:
        if not compensates or found.bound.killed:
            refuse_cancelled(attempt.message_id, found.bound, found.fate)
        if not compensates:
            refuse_paused(attempt.message_id, found.bound)
    if starts and (over or is_final(found.fate)):
        raise attempt_ended(attempt)
    return not over and not is_final(found.fate)


def puts_back(failed: Entry, found: Found) -> bool:
    """Whether `retry` changes anything. Raises CancelRecorded."""
    if _is_over(found, failed.number, failed.attempts):
        return False
    refuse_cancelled(failed.message_id, found.bound, found.fate)
    return found.waits is None or not found.waits.skip


def suspending(entry: Entry, found: Found, *, pending: bool, runs: bool) -> Suspending:
    """`pending`: all promises that the entry awaits are open; `runs`: its turn goes on where it need not wait. Raises
    CancelRecorded."""
    waits = found.waits
    if found.position.place(entry.number.sequence) is Place.SETTLED:
        return Suspending.OVER
    if runs and waits is not None and _runs_on(waits, entry):
        return Suspending.GOES_ON
    if waits is not None and (waits.skip or waits.attempts > entry.attempts):
        return Suspending.OVER
    refuse_cancelled(entry.message_id, found.bound, found.fate)
    if not (pending if entry.awaits else found.bound.paused):
        rested = waits is not None and waits.message_id == entry.message_id and has_ended(waits, entry.attempts)
        return Suspending.RUNS_ON if runs and rested else Suspending.GOES_ON
    if waits is None or not has_ended(waits, entry.attempts):
        return Suspending.PLACED
    # What was put back otherwise, or is another message, awaits nothing that would take the session from rest.
    same = waits.message_id == entry.message_id and waits.awaits == entry.awaits
    return Suspending.RESTS if same else Suspending.OVER


def runs_on(waits: Entry, mark: Mark) -> Entry:
    """How a message stands whose wait was over before its turn had heard that it was to wait."""
    return replace(waits, attempts=waits.attempts + 1, running=mark, awaits=(), suspended=0.0)


def suspended(entry: Entry) -> Entry:
    """How it waits: a wait is an end, so no start is held against it."""
    return replace(entry, starts=0, running=None)


def settled(commit: TurnCommit, found: Found, companions: Sequence[Found] = ()) -> Mapping[str, Position] | None:
    """By stream, the positions after `commit`; None when nothing may change: the number is settled, or the attempt has
    ended. `companions`: what was found of each companion. Raises CancelRecorded, PauseRecorded, VersionConflict,
    ValueError."""
    if _is_over(found, commit.number, commit.attempt + 1):
        return None
    positions = {commit.number.stream: found.position.settle(commit.number.sequence)}
    if commit.record is None:
        if found.fate is None and found.waits is not None and not found.waits.skip:
            raise message_waits(commit)
        return positions
    if commit.record.fate != turn_pb2.FATE_CANCELLED:
        refuse_cancelled(commit.message_id, found.bound, found.fate)
    if commit.record.fate != turn_pb2.FATE_DONE:
        return positions
    refuse_paused(commit.message_id, found.bound)
    batch = tuple(zip(commit.companions, companions, strict=True)) if companions else ()
    for companion, other in batch:
        refuse_cancelled(companion.message_id, other.bound, None)
        refuse_paused(companion.message_id, other.bound)
    if is_final(found.fate):
        raise message_settled(commit)
    if commit.version != found.version:
        raise version_conflict(commit, found.version)
    if batch:
        _settle_companions(positions, commit.message_id, batch)
    return positions


def passed_over(position: Position, number: Number, count: int, *, waits: bool) -> Position | None:
    """The position of the stream after `pass_over`; None when nothing may change. `waits`: one of the run stands in the
    inbox."""
    if count < 1 or waits or number.sequence != position.settled + 1:
        return None
    return position.pass_over(count)


def is_final(fate: Fate.ValueType | None) -> bool:
    """Whether a record of this fate stays whatever follows."""
    return fate is not None and fate not in REDRIVABLE


def replaces(old: Fate.ValueType | None, new: Fate.ValueType) -> bool:
    """Whether a record of fate `new` takes the place of one of fate `old`."""
    return old is None or (old in REDRIVABLE and new in REDRIVEN)


def is_redriven(fate: Fate.ValueType | None, *, awaited: bool, live: bool) -> bool:
    """Whether a record of this fate is no end: a redriven copy is on its way, or the message waits."""
    return fate in REDRIVABLE and (awaited or live)


def is_purged(fate: Fate.ValueType | None, *, awaited: bool, live: bool) -> bool:
    """Whether `purge` changes anything: the message ended as a dead letter, and does not come again."""
    return fate in REDRIVABLE and not (awaited or live)


def is_past(fate: Fate.ValueType | None, *, waits: bool) -> bool:
    """Whether a deletion that names the message comes too late for it: it ended, as a dead letter perhaps, and `waits`
    neither in the inbox nor on the schedule."""
    return fate is not None and not waits


def shards_changed(declared: int, shards: int) -> FailedPrecondition:
    return FailedPrecondition(
        "SHARDS_CHANGED",
        f"the state store was made for {declared} shards, not {shards}; a fleet keeps the number that it began with",
    )


def marked(message_id: str, mark: Mark) -> Marked:
    return Marked(
        "MARKED",
        f"message {message_id} may still run on {mark.instance} under epoch {mark.epoch}; take it over first",
    )


def attempt_ended(attempt: Attempt) -> VersionConflict:
    return VersionConflict(
        "ATTEMPT_ENDED", f"attempt {attempt.index} at message {attempt.message_id} has ended: it may start nothing"
    )


def message_waits(commit: TurnCommit) -> VersionConflict:
    return VersionConflict(
        "MESSAGE_WAITS", f"message {commit.message_id} waits and was never settled: it is no copy; load it again"
    )


def message_settled(commit: TurnCommit) -> VersionConflict:
    return VersionConflict(
        "MESSAGE_SETTLED", f"message {commit.message_id} was settled under another number; load it again"
    )


def companion_gone(companion: Companion) -> VersionConflict:
    return VersionConflict(
        "MESSAGE_SETTLED", f"message {companion.message_id} does not wait for the end of this turn; load it again"
    )


def version_conflict(commit: TurnCommit, version: int) -> VersionConflict:
    return VersionConflict(
        "VERSION_CONFLICT",
        f"{commit.key} is at version {version}, not {commit.version}; load it, run the turn again",
    )


def _runs_on(waits: Entry, entry: Entry) -> bool:
    """Whether the wait that `entry` asks for is over, and was answered so before."""
    return waits.running is not None and waits.attempts == entry.attempts + 1


def _is_over(found: Found, number: Number, attempts: int) -> bool:
    return found.position.place(number.sequence) is Place.SETTLED or has_ended(found.waits, attempts)


def _settle_companions(positions: dict[str, Position], first: str, batch: Sequence[tuple[Companion, Found]]) -> None:
    """Move `positions` on, past each in its order. `first`: the id of the message that is settled before them."""
    messages = {first}
    for companion, other in batch:
        if not _stands(companion, other) or companion.message_id in messages:
            raise companion_gone(companion)
        messages.add(companion.message_id)
        stream = companion.number.stream
        positions[stream] = positions.get(stream, other.position).settle(companion.number.sequence)


def _stands(companion: Companion, found: Found) -> bool:
    """Whether it waits in the attempt that the commit is the end of."""
    waits = found.waits
    if waits is None or waits.skip or waits.message_id != companion.message_id or is_final(found.fate):
        return False
    return not _is_over(found, companion.number, companion.attempt + 1)
