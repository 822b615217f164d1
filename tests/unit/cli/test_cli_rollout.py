"""Where a worker is with a revision."""

import pytest

from troupe.cli.rollout import Progress, stand, stands
from troupe.v1 import status_pb2
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus
from troupe.v1.status_pb2 import RevisionAttempt, RunningRevision, StatusReport
from troupe.v1.turn_pb2 import ErrorDetail

REVISION = RevisionInfo(revision_id="r5", generation=5, term=1)


def worker(
    attempt: RevisionAttempt | None = None, running: RunningRevision | None = None, name: str = "w"
) -> WorkerStatus:
    return WorkerStatus(worker_id=name, report=StatusReport(last_attempt=attempt, running=running))


def tried(phase: str, **error: object) -> RevisionAttempt:
    value = status_pb2.ApplyPhase.Value(f"APPLY_PHASE_{phase}")
    detail = ErrorDetail(**error) if error else None  # type: ignore[arg-type]  # fields of the message
    return RevisionAttempt(revision_id="r5", generation=5, phase=value, error=detail)


@pytest.mark.parametrize(
    ("phase", "progress"),
    [
        ("PENDING", Progress.UNDER_WAY),
        ("APPLIED", Progress.APPLIED),
        ("ROLLED_BACK", Progress.REFUSED),
        ("REJECTED_STALE", Progress.REFUSED),
        ("FAILED", Progress.REFUSED),
        ("ABANDONED", Progress.REFUSED),
    ],
)
def test_each_phase_means_one_thing(phase: str, progress: Progress) -> None:
    assert stand(worker(tried(phase)), REVISION).progress is progress


@pytest.mark.parametrize("phase", ["ROLLED_BACK", "ABANDONED"])
def test_a_retryable_failure_is_not_the_last_word(phase: str) -> None:
    found = stand(worker(tried(phase, message="the worker died", retryable=True)), REVISION)
    assert (found.progress, str(found)) == (Progress.UNDER_WAY, f"w: {phase}: the worker died")


def test_a_worker_that_tried_another_revision_last_is_waited_for() -> None:
    other = RevisionAttempt(revision_id="r4", generation=4, phase=status_pb2.APPLY_PHASE_APPLIED)
    assert stand(worker(other, RunningRevision(generation=4, term=1)), REVISION).progress is Progress.UNDER_WAY
    assert stand(worker(), REVISION).progress is Progress.UNDER_WAY


def test_a_newer_revision_counts_as_this_one() -> None:
    newer = RevisionAttempt(revision_id="r6", generation=6, phase=status_pb2.APPLY_PHASE_APPLIED)
    assert stand(worker(newer, RunningRevision(generation=6, term=1)), REVISION).progress is Progress.APPLIED
    assert stand(worker(newer, RunningRevision(generation=2, term=2)), REVISION).progress is Progress.APPLIED


def test_a_refusal_names_resource_and_reason() -> None:
    found = stand(worker(tried("ROLLED_BACK", resource="Tool/default/x", message="no module y")), REVISION)
    assert str(found) == "w: ROLLED_BACK: Tool/default/x: no module y"


def test_a_lost_worker_does_not_count() -> None:
    lost = worker(name="lost")
    lost.report.health.state = status_pb2.HEALTH_STATE_LOST
    found = stands([worker(tried("APPLIED"), name="b"), lost, worker(tried("APPLIED"), name="a")], REVISION)
    assert [one.worker_id for one in found] == ["a", "b"]
