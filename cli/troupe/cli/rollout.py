"""A revision on its way to the workers, in words: its stage, and where each worker is with it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from troupe.cli import amounts
from troupe.cli.output import counted, natural, printable, word
from troupe.v1 import status_pb2
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus
from troupe.v1.rollout_pb2 import FailurePolicy, Rollout, RolloutStage, WorkerOutcome

PENDING: Final = RolloutStage.ROLLOUT_STAGE_PENDING
CANARY: Final = RolloutStage.ROLLOUT_STAGE_CANARY
ROLLING: Final = RolloutStage.ROLLOUT_STAGE_ROLLING
COMPLETE: Final = RolloutStage.ROLLOUT_STAGE_COMPLETE
HALTED: Final = RolloutStage.ROLLOUT_STAGE_HALTED
ROLLING_BACK: Final = RolloutStage.ROLLOUT_STAGE_ROLLING_BACK
ENDS: Final = frozenset(
    {COMPLETE, HALTED, RolloutStage.ROLLOUT_STAGE_ROLLED_BACK, RolloutStage.ROLLOUT_STAGE_SUPERSEDED}
)

WATCHED: Final = "it runs, and its health is watched for a while"
NAMED: Final = 3
"""Workers that a line names; the others are counted."""


class Progress(Enum):
    """How far one worker is."""

    WAITING = "waiting"
    UNDER_WAY = "under way"
    APPLIED = "applied"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Stand:
    """One worker and the revision: `phase` in the words of its report, `reason` unless all is well."""

    worker_id: str
    progress: Progress
    phase: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.worker_id}: {self.phase}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Course:
    """A rollout as it is now. `kept` are revisions that are known beside it, as they were when they were asked for."""

    revision: RevisionInfo
    workers: tuple[WorkerStatus, ...] = ()
    kept: tuple[RevisionInfo, ...] = ()
    answers: bool = True
    """Whether a control plane says so now; else it is what one said last."""

    @property
    def way_back(self) -> RevisionInfo | None:
        """The revision that brings the old content back, once there is one."""
        by = self.revision.rollout.rolled_back_by_revision_id
        return next((one for one in self.kept if one.revision_id == by), None)

    @property
    def explained(self) -> str:
        """What its stage means, in one sentence; revisions by their generations."""
        return by_generation(explained(self.revision), self.kept)

    @property
    def complete(self) -> bool:
        return self.revision.rollout.stage == COMPLETE

    def stands(self) -> list[Stand]:
        """Of the revision itself, by worker."""
        return stands(self.revision, self.workers)

    def ways_back(self) -> list[Stand]:
        """Of the way back, by worker."""
        way_back = self.way_back
        return stands(way_back, self.workers) if way_back is not None else []


def stands(revision: RevisionInfo, workers: Iterable[WorkerStatus]) -> list[Stand]:
    """Where each worker is with the revision, by name: every one that it was sent to, and while it goes on, those that
    wait. A worker that is LOST in the middle of it, or while it waits, does not count."""
    known = {one.worker_id: one for one in workers}
    found = {
        outcome.worker_id: _stand(outcome, known.get(outcome.worker_id), revision.revision_id)
        for outcome in revision.rollout.workers
    }
    if revision.rollout.stage in (PENDING, CANARY, ROLLING):
        found |= {name: Stand(name, Progress.WAITING, "WAITING") for name in known.keys() - found.keys()}
    return [
        found[name]
        for name in sorted(found, key=natural)
        if found[name].progress in (Progress.APPLIED, Progress.FAILED) or _counts(known.get(name))
    ]


def stage(rollout: Rollout) -> str:
    """`ROLLING_BACK` and the like; empty where nothing is known of it."""
    return word(RolloutStage.Name(rollout.stage), "ROLLOUT_STAGE_") if rollout.stage else ""


def explained(revision: RevisionInfo) -> str:
    """What the stage means for this revision, in one sentence."""
    rollout = revision.rollout
    match rollout.stage:
        case RolloutStage.ROLLOUT_STAGE_PENDING:
            return "no worker has it yet"
        case RolloutStage.ROLLOUT_STAGE_CANARY:
            return first(revision)
        case RolloutStage.ROLLOUT_STAGE_ROLLING:
            return f"to all workers, {amounts.shown(rollout.policy.max_unavailable)} at once"
        case RolloutStage.ROLLOUT_STAGE_COMPLETE:
            return summed(stands(revision, ()))
        case _:
            return printable(rollout.reason)


def first(revision: RevisionInfo) -> str:
    """Which workers are its canaries."""
    canaries = [one.worker_id for one in revision.rollout.workers if one.canary]
    return f"{_listed(canaries) or 'a canary'} {'goes' if len(canaries) < 2 else 'go'} first"


def summed(found: Iterable[Stand]) -> str:
    """`2 applied, 1 failed`."""
    counts = Counter(one.progress for one in found)
    order = (Progress.APPLIED, Progress.FAILED, Progress.UNDER_WAY, Progress.WAITING)
    return ", ".join(f"{counts[one]} {one.value}" for one in order if counts[one])


def goes_back(revision: RevisionInfo, kept: Iterable[RevisionInfo]) -> bool:
    """Whether a HALTED revision is about to be rolled back: its policy wants it, and an earlier one was COMPLETE."""
    rollout = revision.rollout
    return (
        rollout.stage == HALTED
        and revision.current
        and rollout.policy.on_failure == FailurePolicy.FAILURE_POLICY_ROLL_BACK
        and not rollout.rollback_of_revision_id
        and any(one.rollout.stage == COMPLETE and one.generation < revision.generation for one in kept)
    )


def by_generation(text: str, revisions: Iterable[RevisionInfo]) -> str:
    """The text with ids of revisions replaced by their generations, which people can keep apart."""
    for one in revisions:
        text = text.replace(f"revision {one.revision_id}", f"revision {one.generation}")
        text = text.replace(one.revision_id, f"revision {one.generation}")
    return text


def why(outcome: WorkerOutcome) -> str:
    """Why the worker failed: the resource, and what it said."""
    reason, at = printable(outcome.error.message or outcome.error.reason), outcome.error.resource
    told = reason if reason.startswith(at) else f"{at}: {reason}"
    return f"{told} (its process died {outcome.abandoned} times)" if outcome.abandoned > 1 else told


def _stand(outcome: WorkerOutcome, worker: WorkerStatus | None, revision_id: str) -> Stand:
    name, phase = outcome.worker_id, word(status_pb2.ApplyPhase.Name(outcome.phase), "APPLY_PHASE_")
    if outcome.failed:
        # One that only took too long is still in an earlier phase.
        return Stand(name, Progress.FAILED, "FAILED" if phase == "PENDING" else phase, why(outcome))
    if outcome.phase == status_pb2.APPLY_PHASE_APPLIED:
        return Stand(name, Progress.APPLIED, phase)
    if outcome.HasField("error"):
        return Stand(name, Progress.UNDER_WAY, phase, f"{why(outcome)}; it is tried again")
    if not outcome.HasField("offered_at"):
        return Stand(name, Progress.WAITING, "WAITING")
    if worker is not None and _watched(worker, outcome, revision_id):
        return Stand(name, Progress.UNDER_WAY, phase, WATCHED)
    return Stand(name, Progress.UNDER_WAY, "SENT")


def _watched(worker: WorkerStatus, outcome: WorkerOutcome, revision_id: str) -> bool:
    attempt = worker.report.last_attempt
    same = outcome.instance_id in ("", worker.report.instance_id)
    return same and attempt.revision_id == revision_id and attempt.phase == status_pb2.APPLY_PHASE_PENDING


def _counts(worker: WorkerStatus | None) -> bool:
    return worker is not None and worker.report.health.state != status_pb2.HEALTH_STATE_LOST


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {counted(len(names) - NAMED, 'other')}" if len(names) > NAMED else shown
