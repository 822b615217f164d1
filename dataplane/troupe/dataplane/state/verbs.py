"""What a verb comes to, and what it forbids. Pure: one rule for all backends.

A verb finds its message in one of four places, and what it then does is a table:

                                     CANCEL, KILL   PAUSE      RESUME
    it has ended                     TOO_LATE       TOO_LATE   TOO_LATE
    it is in another attempt         STALE          STALE      STALE
    it waits, is scheduled, or
    has a journal                    APPLIED        APPLIED    APPLIED where it lifts a PAUSE, else NOT_FOUND
    nothing is known of it           PENDING        PENDING    the same

but that PAUSE is TOO_LATE where a CANCEL or KILL binds, and STALE where the RESUME that names it came first. What waits
or comes again has not ended, though it was a dead letter before; beside a record that stays it is a copy. Redriven
copies on their way count as nothing known.

RESTART is for what is at rest: it waits between two attempts, or it is a dead letter. There it is APPLIED, or NOT_FOUND
where the dead letter was purged; elsewhere, and where it was not so when the RESTART was made, NOT_AT_REST where
anything is known of the message, otherwise NOT_FOUND; TOO_LATE where it has ended in another way, or a CANCEL or KILL
binds it.

What was APPLIED or PENDING binds the message until it is settled; a PAUSE until it is lifted. A RESTART settles its
message at once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from troupe.dataplane.state.control import Control
from troupe.dataplane.state.errors import CancelRecorded, PauseRecorded
from troupe.dataplane.state.session import Entry
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer
from troupe.v1.turn_pb2 import Fate

ENDING = (agent_pb2.VERB_CANCEL, agent_pb2.VERB_KILL)
"""Verbs that end a message."""
BINDING = (agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING)
"""Answers to a verb that was recorded to be obeyed."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Which verbs bind a message now."""

    cancelled: bool = False
    """CANCEL or KILL."""
    killed: bool = False
    paused: bool = False


FREE = Bound()


@dataclass(frozen=True, slots=True)
class Standing:
    """What a store has on a message when a verb comes."""

    waiting: Sequence[Entry]
    """Where it waits, foremost first, without SKIPs."""
    scheduled: Entry | None
    """As it stands on the schedule, unless as a SKIP."""
    fate: Fate.ValueType | None
    """Of its record."""
    final: bool
    """That record stays: what waits beside it is a copy."""
    awaited: bool
    """A redriven copy of it is on its way."""
    purged: bool
    """It is a dead letter no more: that was purged."""
    steps: int
    """In its journal."""
    cancelled: bool
    """A CANCEL or KILL binds it."""
    pauses: Collection[str]
    """Ids of the PAUSEs that bind it."""
    lifted: bool
    """A RESUME names this very verb: it came before."""

    @property
    def ended(self) -> bool:
        comes = self.waiting or self.scheduled or self.awaited
        return self.final or (self.fate is not None and not comes)

    @property
    def known(self) -> bool:
        return bool(self.waiting or self.scheduled or self.steps)

    @property
    def begun(self) -> bool:
        """It runs, or may run, where it waits."""
        return any(entry.starts or entry.running for entry in self.waiting)

    @property
    def attempt(self) -> int:
        """Index of the attempt that it is in: the one that runs or ended in a wait, otherwise the next."""
        return max((attempt_of(entry) for entry in self.waiting), default=0)


def verb_answer(control: Control, found: Standing) -> VerbAnswer.ValueType:
    """See the module's text."""
    if control.verb == agent_pb2.VERB_RESTART:
        return _restarted(control, found)
    if found.ended:
        return agent_pb2.VERB_ANSWER_TOO_LATE
    if control.attempt not in (None, found.attempt):
        return agent_pb2.VERB_ANSWER_STALE
    if control.verb == agent_pb2.VERB_RESUME:
        return agent_pb2.VERB_ANSWER_APPLIED if _named(control, found) else agent_pb2.VERB_ANSWER_NOT_FOUND
    if control.verb == agent_pb2.VERB_PAUSE and found.cancelled:
        return agent_pb2.VERB_ANSWER_TOO_LATE
    if control.verb == agent_pb2.VERB_PAUSE and found.lifted:
        return agent_pb2.VERB_ANSWER_STALE
    return agent_pb2.VERB_ANSWER_APPLIED if found.known else agent_pb2.VERB_ANSWER_PENDING


def binds(verb: int, answer: int) -> bool:
    """Whether a verb with this answer binds its message from then on."""
    return (verb in ENDING or verb == agent_pb2.VERB_PAUSE) and answer in BINDING


def lifted(control: Control, answer: VerbAnswer.ValueType, found: Standing) -> list[str]:
    """Ids of the PAUSEs that bind no more after this verb."""
    resumes = control.verb == agent_pb2.VERB_RESUME and answer == agent_pb2.VERB_ANSWER_APPLIED
    return _named(control, found) if resumes else []


def ends_at_once(control: Control, answer: VerbAnswer.ValueType, found: Standing) -> bytes | None:
    """The digest under which the message is settled as CANCELLED where it waits or is scheduled; None where it is not:
    what has begun, or has a journal, is settled by its turn, but where another message goes on with the journal."""
    if answer != agent_pb2.VERB_ANSWER_APPLIED:
        return None
    if control.restart is not None:
        return control.restart.entry.digest
    if control.verb not in ENDING or found.steps or found.begun:
        return None
    return found.waiting[0].digest if found.waiting else found.scheduled.digest if found.scheduled else None


def attempt_of(entry: Entry) -> int:
    """Index of the attempt that what waits is in: one that ended in a wait goes on with the next."""
    within = entry.starts or entry.running or entry.suspended
    return max(0, entry.attempts - 1) if within else entry.attempts


def refuse_cancelled(message_id: str, bound: Bound, fate: Fate.ValueType | None) -> None:
    """Raises CancelRecorded. `fate`: of the message's record; a CANCEL may have settled it."""
    if bound.cancelled or fate == turn_pb2.FATE_CANCELLED:
        raise cancel_recorded(message_id, kill=bound.killed)


def refuse_paused(message_id: str, bound: Bound) -> None:
    """Raises PauseRecorded."""
    if bound.paused:
        raise pause_recorded(message_id)


def cancel_recorded(message_id: str, *, kill: bool = False) -> CancelRecorded:
    verb = "KILL" if kill else "CANCEL"
    return CancelRecorded(
        "CANCELLED", f"a {verb} was recorded for message {message_id}; settle it as CANCELLED", kill=kill
    )


def pause_recorded(message_id: str) -> PauseRecorded:
    return PauseRecorded("PAUSED", f"message {message_id} is paused; suspend it until it is resumed")


def _restarted(control: Control, found: Standing) -> VerbAnswer.ValueType:
    if found.final or found.cancelled:
        return agent_pb2.VERB_ANSWER_TOO_LATE
    if not (found.known or found.fate is not None):
        return agent_pb2.VERB_ANSWER_NOT_FOUND
    if control.attempt is not None and not (found.waiting and control.attempt == found.attempt):
        return agent_pb2.VERB_ANSWER_STALE
    rests = not found.begun if found.waiting else found.fate is not None and not found.awaited
    if rests and control.restart is None and found.purged and not found.waiting:
        return agent_pb2.VERB_ANSWER_NOT_FOUND
    if not rests or control.restart is None or control.restart.seen != found.steps:
        return agent_pb2.VERB_ANSWER_NOT_AT_REST
    return agent_pb2.VERB_ANSWER_APPLIED


def _named(resume: Control, found: Standing) -> list[str]:
    return [verb_id for verb_id in found.pauses if resume.lifts in ("", verb_id)]
