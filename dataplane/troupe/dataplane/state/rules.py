"""What the scripts of every store decide, from what they found. Pure: one rule for all backends.

A script reads, asks the rule, then writes; a rule that refuses raises, so nothing is half done.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from troupe.broker.order import Place, Position
from troupe.dataplane.state.port import (
    CancelRecorded,
    Entry,
    Fenced,
    Owner,
    Placed,
    Record,
    TurnCommit,
    VersionConflict,
)
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer
from troupe.v1.turn_pb2 import Fate

REDRIVABLE = (turn_pb2.FATE_DEAD, turn_pb2.FATE_EXPIRED)
"""Fates that are kept, with the journal, until the message is redriven."""
REDRIVEN = (turn_pb2.FATE_DONE, turn_pb2.FATE_CANCELLED, *REDRIVABLE)
"""Fates that may take the place of those. Any other is first or not at all: a SKIP never hides how a message ended."""
BINDING = (agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING)
"""Answers to a CANCEL that was recorded to be obeyed."""
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
    cancelled: bool
    """A CANCEL that binds was recorded for the message."""
    version: int = 0
    """Of the session."""


def raises_fence(owner: Owner, record: tuple[int, str]) -> bool:
    """Whether the fence record, (epoch, instance), must become the owner's. Raises Fenced."""
    epoch, instance = record
    if owner.epoch < epoch or (owner.epoch == epoch and owner.instance != instance):
        raise Fenced(owner.shard, epoch)
    return owner.epoch > epoch


def place(
    entry: Entry, position: Position, *, waits: bool, known: bool, tombstone: bytes | None
) -> tuple[Placed, Record | None]:
    """What `put` comes to, and the record that it leaves. `waits`: its number stands in the inbox; `known`: its message
    waits or has a record; `tombstone`: the status of a CANCEL that came first, of a message without a journal."""
    if position.place(entry.number.sequence) is Place.SETTLED:
        return Placed.SETTLED, None
    if waits:
        return Placed.PRESENT, None
    if entry.skip or (known and not entry.running):
        return Placed.SKIPPED, None
    if tombstone is not None and not entry.running:
        return Placed.SKIPPED, Record(turn_pb2.FATE_CANCELLED, tombstone, entry.digest)
    return Placed.NEW, None


def may_keep(message_id: str, fate: Fate.ValueType | None, *, cancelled: bool, starts: bool) -> bool:
    """Whether steps may be added to the journal of a message that has `fate`: to a settled one only a late write comes.
    Raises CancelRecorded when something `starts`; the result of what started before is never refused."""
    if starts:
        _refuse_cancelled(message_id, fate, cancelled)
    return not is_final(fate)


def puts_back(failed: Entry, found: Found) -> bool:
    """Whether `retry` changes anything. Raises CancelRecorded."""
    if found.position.place(failed.number.sequence) is Place.SETTLED:
        return False
    _refuse_cancelled(failed.message_id, found.fate, found.cancelled)
    waits = found.waits
    # More attempts than `failed` knows of: it is a late write of one that has ended.
    return waits is None or not (waits.skip or waits.attempts > failed.attempts or waits == failed)


def settled(commit: TurnCommit, found: Found) -> Position | None:
    """The position of the number's stream after `commit`; None when the number is settled and nothing may change.
    Raises CancelRecorded, VersionConflict, ValueError."""
    if found.position.place(commit.number.sequence) is Place.SETTLED:
        return None
    position = found.position.settle(commit.number.sequence)
    if commit.record is None:
        if found.fate is None and found.waits is not None and not found.waits.skip:
            raise VersionConflict(
                "MESSAGE_WAITS",
                f"message {commit.message_id} waits and was never settled: it is no copy; load it again",
            )
        return position
    if commit.record.fate != turn_pb2.FATE_CANCELLED:
        _refuse_cancelled(commit.message_id, found.fate, found.cancelled)
    if commit.record.fate == turn_pb2.FATE_DONE:
        if is_final(found.fate):
            raise VersionConflict(
                "MESSAGE_SETTLED", f"message {commit.message_id} was settled under another number; load it again"
            )
        if commit.version != found.version:
            raise VersionConflict(
                "VERSION_CONFLICT",
                f"{commit.key} is at version {found.version}, not {commit.version}; load it, run the turn again",
            )
    return position


def cancel_answer(
    waiting: Sequence[Entry], fate: Fate.ValueType | None, *, journaled: bool
) -> tuple[VerbAnswer.ValueType, bool]:
    """The answer to a CANCEL, and whether the message is settled at once. `waiting`: where it waits, without SKIPs.
    What waits is not settled, whatever an older record says."""
    if waiting:
        begun = journaled or any(entry.starts or entry.running for entry in waiting)
        return agent_pb2.VERB_ANSWER_APPLIED, not begun
    if fate is not None:
        return agent_pb2.VERB_ANSWER_TOO_LATE, False
    return agent_pb2.VERB_ANSWER_APPLIED if journaled else agent_pb2.VERB_ANSWER_PENDING, False


def is_final(fate: Fate.ValueType | None) -> bool:
    """Whether a record of this fate stays whatever follows."""
    return fate is not None and fate not in REDRIVABLE


def replaces(old: Fate.ValueType | None, new: Fate.ValueType) -> bool:
    """Whether a record of fate `new` takes the place of one of fate `old`."""
    return old is None or (old in REDRIVABLE and new in REDRIVEN)


def _refuse_cancelled(message_id: str, fate: Fate.ValueType | None, cancelled: bool) -> None:
    if cancelled or fate == turn_pb2.FATE_CANCELLED:
        raise CancelRecorded("CANCELLED", f"a CANCEL was recorded for message {message_id}; settle it as CANCELLED")
