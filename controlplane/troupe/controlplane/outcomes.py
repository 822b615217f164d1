"""How one worker fares with one revision: a WorkerOutcome, and what each word of the worker makes of it.

Words come late, twice and out of order, and are heard again in full by each new leader; so every rule here asks what
the worker says, never how often it said so. A process that runs the revision has it, whatever older words of it come
after. A refusal binds the process that refused; the next one may be better off. A process can report only once that
the one before died with the revision on trial; the second death counts, and binds all processes of that worker.
"""

from dataclasses import dataclass
from typing import Final

from google.rpc import code_pb2

from troupe.chassis.wire import seconds, timestamp
from troupe.v1.rollout_pb2 import WorkerOutcome
from troupe.v1.status_pb2 import ApplyPhase, HealthState, RevisionAttempt, RunningRevision, StatusReport
from troupe.v1.turn_pb2 import ErrorDetail

PROGRESS_DEADLINE: Final = 600.0
"""Seconds from the offer, after which a worker that has neither taken nor refused the revision counts as failed."""

ABANDONED_ENOUGH: Final = 2
"""Processes that died with the revision on trial before the worker counts as failed."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A worker that is alive. `attempt` is its newest word, by report or as the answer to an Apply,
    about the newest revision that it was sent; where an Apply ended in an error in place of an answer, one that says
    so. Both mean nothing where its process has not been `heard` yet."""

    worker_id: str
    instance_id: str
    running: RunningRevision | None = None
    attempt: RevisionAttempt | None = None
    heard: bool = True
    draining: bool = False

    @staticmethod
    def of(report: StatusReport, draining: bool = False) -> "Observed":
        """What a report says; one without a sequence number stands for a process that was not heard. `draining` where
        the process is told to, whether it says so yet or not."""
        return Observed(
            worker_id=report.worker_id,
            instance_id=report.instance_id,
            running=report.running if report.HasField("running") else None,
            attempt=report.last_attempt if report.HasField("last_attempt") else None,
            heard=report.sequence > 0,
            draining=draining or report.health.state == HealthState.HEALTH_STATE_DRAINING,
        )

    def runs(self, revision_id: str) -> bool:
        """Whether it is known to run that revision, be it on trial."""
        return self.heard and self.running is not None and self.running.revision_id == revision_id

    def tried(self, revision_id: str) -> RevisionAttempt | None:
        """How that revision fared, if that is its newest attempt."""
        return self.attempt if self.heard and self.attempt and self.attempt.revision_id == revision_id else None


def hear(outcome: WorkerOutcome, worker: Observed, revision_id: str, now: float) -> None:
    """Make of `outcome` what follows when the worker is as it is."""
    if not worker.heard:
        return
    attempt = worker.tried(revision_id)
    has = attempt.phase == ApplyPhase.APPLY_PHASE_APPLIED if attempt is not None else worker.runs(revision_id)
    another, known = outcome.instance_id != worker.instance_id, bool(outcome.instance_id)
    outcome.instance_id = worker.instance_id
    if has:
        outcome.phase, outcome.failed = ApplyPhase.APPLY_PHASE_APPLIED, False
        outcome.ClearField("error")
        return
    if another and known:
        _begin_again(outcome)
    if attempt is not None and not is_done(outcome):
        _not_applied(outcome, attempt, another, now)


def is_done(outcome: WorkerOutcome) -> bool:
    """The worker has the revision, or has failed with it."""
    return outcome.failed or outcome.phase == ApplyPhase.APPLY_PHASE_APPLIED


def is_under_way(outcome: WorkerOutcome) -> bool:
    """It has a place among the workers that may be in the middle of taking the revision."""
    return outcome.HasField("offered_at") and not is_done(outcome)


def is_barred(outcome: WorkerOutcome, worker: Observed) -> bool:
    """Whether this process is not to try the revision again."""
    if not outcome.failed:
        return False
    same = outcome.instance_id in ("", worker.instance_id) or not worker.heard
    return same or outcome.abandoned >= ABANDONED_ENOUGH


def is_overdue(outcome: WorkerOutcome, now: float) -> bool:
    """Whether it has held its place for as long as it may."""
    return is_under_way(outcome) and now - seconds(outcome.offered_at) >= PROGRESS_DEADLINE


def give_up(outcome: WorkerOutcome, lost: bool) -> None:
    """It has not come to an end in time; it may be `lost` by now."""
    outcome.failed = True
    if lost:
        reason, what = "LOST", f"lost in the middle of it, and not back {PROGRESS_DEADLINE:g} s after the offer"
    elif outcome.HasField("error"):
        return
    else:
        reason, what = "NO_PROGRESS", f"no end of it within {PROGRESS_DEADLINE:g} s of the offer"
    code = code_pb2.DEADLINE_EXCEEDED
    outcome.error.CopyFrom(ErrorDetail(code=code, reason=reason, message=f"{what}; look at the worker's log"))


def _begin_again(outcome: WorkerOutcome) -> None:
    """Another process of the worker, without the revision. What the one before had or refused it has to take anew; the
    place of one that was in the middle of it is its own now."""
    if not is_done(outcome) or (outcome.failed and outcome.abandoned >= ABANDONED_ENOUGH):
        return
    outcome.phase, outcome.failed = ApplyPhase.APPLY_PHASE_PENDING, False
    outcome.ClearField("error")
    outcome.ClearField("offered_at")


def _not_applied(outcome: WorkerOutcome, attempt: RevisionAttempt, another: bool, now: float) -> None:
    outcome.phase = attempt.phase
    outcome.ClearField("error")
    match attempt.phase:
        case ApplyPhase.APPLY_PHASE_PENDING:
            if not outcome.HasField("offered_at"):
                # It came back with the revision on trial: it is in the middle of it, whether there was room or not.
                outcome.offered_at.CopyFrom(timestamp(now))
        case ApplyPhase.APPLY_PHASE_ABANDONED:
            outcome.error.CopyFrom(attempt.error)
            outcome.abandoned += another
            outcome.failed = outcome.abandoned >= ABANDONED_ENOUGH
        case _:
            outcome.error.CopyFrom(attempt.error)
            outcome.failed = not attempt.error.retryable
