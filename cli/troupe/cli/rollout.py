"""A revision on its way to the workers: what each says of it, and when it is over."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from troupe.chassis.errors import DeadlineExceeded
from troupe.cli.clients import ControlPlane
from troupe.cli.fleet_status import watch
from troupe.cli.output import word
from troupe.v1 import status_pb2
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus

_REFUSALS = (
    status_pb2.APPLY_PHASE_ROLLED_BACK,
    status_pb2.APPLY_PHASE_REJECTED_STALE,
    status_pb2.APPLY_PHASE_FAILED,
    status_pb2.APPLY_PHASE_ABANDONED,
)


class Progress(Enum):
    """How far one worker is."""

    UNDER_WAY = "under way"
    APPLIED = "applied"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Stand:
    """One worker and the revision: `phase` in the words of the report, `reason` unless all is well."""

    worker_id: str
    progress: Progress
    phase: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.worker_id}: {self.phase}" + (f": {self.reason}" if self.reason else "")


def stand(worker: WorkerStatus, revision: RevisionInfo) -> Stand:
    """Where the worker is with the revision. A newer one that it runs counts as this one: that grew out of it. A
    failure that the worker calls retryable is not its last word."""
    running, attempt = worker.report.running, worker.report.last_attempt
    if attempt.revision_id == revision.revision_id:
        phase = word(status_pb2.ApplyPhase.Name(attempt.phase), "APPLY_PHASE_")
        if attempt.phase in _REFUSALS:
            progress = Progress.UNDER_WAY if attempt.error.retryable else Progress.REFUSED
            why, at = attempt.error.message or attempt.error.reason, attempt.error.resource
            return Stand(worker.worker_id, progress, phase, why if why.startswith(at) else f"{at}: {why}")
        done = attempt.phase == status_pb2.APPLY_PHASE_APPLIED
        if done:
            return Stand(worker.worker_id, Progress.APPLIED, phase)
        return Stand(worker.worker_id, Progress.UNDER_WAY, phase, "it runs, and its health is watched for a while")
    if (running.term, running.generation) > (revision.term, revision.generation):
        return Stand(worker.worker_id, Progress.APPLIED, f"APPLIED generation {running.generation}, which is newer")
    return Stand(worker.worker_id, Progress.UNDER_WAY, "WAITING")


def stands(workers: Iterable[WorkerStatus], revision: RevisionInfo) -> list[Stand]:
    """The live workers' stands, by name. A worker whose lease is over does not count."""
    live = (worker for worker in workers if worker.report.health.state != status_pb2.HEALTH_STATE_LOST)
    return sorted((stand(worker, revision) for worker in live), key=lambda one: one.worker_id)


async def follow(
    control_plane: ControlPlane, revision: RevisionInfo, timeout: float, changed: Callable[[Stand], None]
) -> list[Stand]:
    """Wait until every live worker runs the revision, one at least, or one refuses it; `changed` hears each new
    stand. Raises DeadlineExceeded, saying who is missing, after `timeout` seconds."""
    known: dict[str, Stand] = {}
    try:
        async with asyncio.timeout(timeout):
            async for status in watch(control_plane):
                current = {one.worker_id: one for one in stands(status.workers, revision)}
                for name, one in current.items():
                    if known.get(name) != one:
                        changed(one)
                known = current
                if _over(known.values()):
                    break
    except TimeoutError as error:
        raise DeadlineExceeded("ROLLOUT_UNFINISHED", _unfinished(revision, known.values(), timeout)) from error
    return list(known.values())


def _over(known: Iterable[Stand]) -> bool:
    found = {one.progress for one in known}
    return Progress.REFUSED in found or found == {Progress.APPLIED}


def _unfinished(revision: RevisionInfo, known: Iterable[Stand], timeout: float) -> str:
    missing = [str(one) for one in known if one.progress is not Progress.APPLIED]
    who = "; ".join(missing) if missing else "no worker is there"
    return f"revision {revision.generation} is not everywhere after {timeout:g} s ({who}); see `troupe status`"
