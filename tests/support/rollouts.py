"""Rollouts for tests: a newest revision, one before it, and workers as a control plane sees them."""

from dataclasses import replace

from troupe.controlplane.outcomes import Observed
from troupe.controlplane.policy import resolved
from troupe.controlplane.revisions import Summary
from troupe.controlplane.rollout import step
from troupe.controlplane.stages import COMPLETE, name
from troupe.controlplane.succession import fresh
from troupe.v1.rollout_pb2 import Rollout, RolloutPolicy, WorkerOutcome, WorkerShare
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, RunningRevision
from troupe.v1.turn_pb2 import ErrorDetail

NOW = 1_700_000_000.0
STABLE = Summary("stable", "", 1, 1, "old content", NOW, 1, Rollout(stage=COMPLETE))


def newest(canary: int = 1, unavailable: int = 1, failures: int = 1, **policy: RolloutPolicy) -> Summary:
    """A revision that was just committed after STABLE."""
    asked = RolloutPolicy(
        canary=WorkerShare(workers=canary), max_unavailable=WorkerShare(workers=unavailable), max_failures=failures
    )
    asked.MergeFrom(policy.get("policy", RolloutPolicy()))
    return Summary("newest", "stable", 2, 1, "new content", NOW, 1, fresh(resolved(asked), NOW))


def running(about: Summary | None) -> RunningRevision | None:
    if about is None:
        return None
    return RunningRevision(
        revision_id=about.revision_id,
        generation=about.generation,
        term=about.term,
        content_hash=about.content_hash,
    )


def tried(about: Summary, phase: str, problem: str = "", retryable: bool = False) -> RevisionAttempt:
    error = ErrorDetail(reason="BAD", message=problem, retryable=retryable, resource="Agent/default/clerk")
    return RevisionAttempt(
        revision_id=about.revision_id,
        generation=about.generation,
        term=about.term,
        content_hash=about.content_hash,
        phase=ApplyPhase.Value(f"APPLY_PHASE_{phase}"),
        error=error if problem else None,
    )


def idle(worker_id: str, process: int = 1, runs: Summary | None = STABLE) -> Observed:
    """A worker that knows nothing of the newest revision."""
    return Observed(worker_id, f"{worker_id}.{process}", running(runs), tried(runs, "APPLIED") if runs else None)


def applied(worker_id: str, about: Summary, process: int = 1) -> Observed:
    return Observed(worker_id, f"{worker_id}.{process}", running(about), tried(about, "APPLIED"))


def on_trial(worker_id: str, about: Summary, process: int = 1) -> Observed:
    return Observed(worker_id, f"{worker_id}.{process}", running(about), tried(about, "PENDING"))


def refused(worker_id: str, about: Summary, process: int = 1) -> Observed:
    return Observed(worker_id, f"{worker_id}.{process}", running(STABLE), tried(about, "ROLLED_BACK", "no module"))


def failing(worker_id: str, about: Summary, process: int = 1) -> Observed:
    """For now; another try may succeed."""
    attempt = tried(about, "ROLLED_BACK", "model is down", retryable=True)
    return Observed(worker_id, f"{worker_id}.{process}", running(STABLE), attempt)


def abandoned(worker_id: str, about: Summary, process: int) -> Observed:
    attempt = tried(about, "ABANDONED", "died with it on trial", retryable=True)
    return Observed(worker_id, f"{worker_id}.{process}", running(STABLE), attempt)


def unheard(worker_id: str, process: int = 1) -> Observed:
    return Observed(worker_id, f"{worker_id}.{process}", heard=False)


def after(about: Summary, *workers: Observed, now: float = NOW) -> Summary:
    """The revision after its workers were seen like this; and the same again changes nothing."""
    then = replace(about, rollout=step(about, workers, now))
    assert step(then, workers, now) == then.rollout
    return then


def stage(about: Summary) -> str:
    return name(about.rollout.stage)


def outcome(about: Summary, worker_id: str) -> WorkerOutcome:
    return next(row for row in about.rollout.workers if row.worker_id == worker_id)


def under_way(about: Summary) -> list[str]:
    """The workers in the middle of it."""
    done = ApplyPhase.APPLY_PHASE_APPLIED
    rows = about.rollout.workers
    return [row.worker_id for row in rows if row.HasField("offered_at") and not row.failed and row.phase != done]
