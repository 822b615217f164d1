"""The stages of a rollout, and what leads from one to the next: a table.

A revision begins PENDING. As soon as a worker is there, its canaries take it (CANARY), or every worker does, a few at
a time, where none are wanted (ROLLING). CANARY becomes ROLLING when the canaries run it, and ROLLING becomes COMPLETE
when every worker that is alive runs it, or failed with it within what may fail. More failures than that, or one
canary's, end both: HALTED.

What comes after an end comes with another revision, in the commit of which this one's stage changes:

- Its way back, a revision with older content, makes it ROLLING_BACK: by itself when it is HALTED and its policy says
  so, or because a user asked, at any stage. How the way back ends is how that ends: COMPLETE makes it ROLLED_BACK;
  HALTED makes it HALTED, for a way back has none of its own; a newer revision in between makes it SUPERSEDED.
- Any other revision makes it SUPERSEDED, if it was not at its end. COMPLETE and HALTED stay, for they say how it went:
  what is COMPLETE can be gone back to, and what is HALTED tells why.

Only the newest revision goes to workers, and only one before it is ever changed: the one that it is the way back from.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeAlias

from troupe.chassis.wire import timestamp
from troupe.v1.rollout_pb2 import Rollout, RolloutStage

Stage: TypeAlias = RolloutStage.ValueType

PENDING: Final = RolloutStage.ROLLOUT_STAGE_PENDING
CANARY: Final = RolloutStage.ROLLOUT_STAGE_CANARY
ROLLING: Final = RolloutStage.ROLLOUT_STAGE_ROLLING
COMPLETE: Final = RolloutStage.ROLLOUT_STAGE_COMPLETE
HALTED: Final = RolloutStage.ROLLOUT_STAGE_HALTED
ROLLING_BACK: Final = RolloutStage.ROLLOUT_STAGE_ROLLING_BACK
ROLLED_BACK: Final = RolloutStage.ROLLOUT_STAGE_ROLLED_BACK
SUPERSEDED: Final = RolloutStage.ROLLOUT_STAGE_SUPERSEDED


class Event(Enum):
    """What changes a stage. The value is the line beside its arrow."""

    CANARIES_CHOSEN = "a worker is there, canaries are wanted"
    NO_CANARIES = "a worker is there, no canary is wanted"
    CANARIES_PASSED = "the canaries run it"
    ALL_DONE = "every worker runs it, or may fail"
    TOO_MANY_FAILED = "more failed than may, or a canary"
    WAY_BACK_COMMITTED = "its way back is committed"
    WAY_BACK_COMPLETE = "its way back is COMPLETE"
    WAY_BACK_HALTED = "its way back is HALTED"
    WAY_BACK_LEFT = "a newer revision came before its way back was at its end"
    NEWER_COMMITTED = "a newer revision is committed, not its way back"


_OF_WORKERS = frozenset(
    {Event.CANARIES_CHOSEN, Event.NO_CANARIES, Event.CANARIES_PASSED, Event.ALL_DONE, Event.TOO_MANY_FAILED}
)
_OF_ITS_WAY_BACK = frozenset({Event.WAY_BACK_COMPLETE, Event.WAY_BACK_HALTED, Event.WAY_BACK_LEFT})
_OF_THE_NEXT = frozenset({Event.WAY_BACK_COMMITTED, Event.NEWER_COMMITTED})

NEXT: Final[Mapping[tuple[Stage, Event], Stage]] = MappingProxyType(
    {
        (PENDING, Event.CANARIES_CHOSEN): CANARY,
        (PENDING, Event.NO_CANARIES): ROLLING,
        (CANARY, Event.CANARIES_PASSED): ROLLING,
        (ROLLING, Event.ALL_DONE): COMPLETE,
        (CANARY, Event.TOO_MANY_FAILED): HALTED,
        (ROLLING, Event.TOO_MANY_FAILED): HALTED,
        (PENDING, Event.NEWER_COMMITTED): SUPERSEDED,
        (CANARY, Event.NEWER_COMMITTED): SUPERSEDED,
        (ROLLING, Event.NEWER_COMMITTED): SUPERSEDED,
        (COMPLETE, Event.NEWER_COMMITTED): COMPLETE,
        (HALTED, Event.NEWER_COMMITTED): HALTED,
        (PENDING, Event.WAY_BACK_COMMITTED): ROLLING_BACK,
        (CANARY, Event.WAY_BACK_COMMITTED): ROLLING_BACK,
        (ROLLING, Event.WAY_BACK_COMMITTED): ROLLING_BACK,
        (COMPLETE, Event.WAY_BACK_COMMITTED): ROLLING_BACK,
        (HALTED, Event.WAY_BACK_COMMITTED): ROLLING_BACK,
        (ROLLING_BACK, Event.WAY_BACK_COMPLETE): ROLLED_BACK,
        (ROLLING_BACK, Event.WAY_BACK_HALTED): HALTED,
        (ROLLING_BACK, Event.WAY_BACK_LEFT): SUPERSEDED,
    }
)

IMPOSSIBLE: Final[Mapping[Stage, frozenset[Event]]] = MappingProxyType(
    {
        PENDING: frozenset({Event.CANARIES_PASSED, Event.ALL_DONE, Event.TOO_MANY_FAILED}) | _OF_ITS_WAY_BACK,
        CANARY: frozenset({Event.CANARIES_CHOSEN, Event.NO_CANARIES, Event.ALL_DONE}) | _OF_ITS_WAY_BACK,
        ROLLING: frozenset({Event.CANARIES_CHOSEN, Event.NO_CANARIES, Event.CANARIES_PASSED}) | _OF_ITS_WAY_BACK,
        COMPLETE: _OF_WORKERS | _OF_ITS_WAY_BACK,
        HALTED: _OF_WORKERS | _OF_ITS_WAY_BACK,
        ROLLING_BACK: _OF_WORKERS | _OF_THE_NEXT,
        ROLLED_BACK: frozenset(Event),
        SUPERSEDED: frozenset(Event),
    }
)
"""What cannot happen at a stage. Workers are judged before the end only; a revision has one next one; and how a way
back went is asked while it is on its way."""

UNFINISHED: Final = frozenset({PENDING, CANARY, ROLLING})
"""The revision goes to workers, or is about to."""


def name(stage: Stage) -> str:
    """`ROLLING_BACK` and the like, as people are told it."""
    return RolloutStage.Name(stage).removeprefix("ROLLOUT_STAGE_")


def move(rollout: Rollout, event: Event, now: float, reason: str = "") -> None:
    """Put `rollout` in the stage that follows. Nothing of it changes where that is the one that it is in. An event that
    is impossible there is a defect of the caller's: KeyError."""
    stage = NEXT[rollout.stage, event]
    if stage != rollout.stage:
        rollout.stage, rollout.reason = stage, reason
        rollout.stage_began.CopyFrom(timestamp(now))
