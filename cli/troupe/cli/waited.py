"""What `--wait` does with a revision: show it until its end, and say how that was."""

import asyncio
from dataclasses import dataclass
from typing import Any

from troupe.chassis.errors import DeadlineExceeded
from troupe.cli.clients import ControlPlane
from troupe.cli.edge import Refused, complain, note
from troupe.cli.following import follow
from troupe.cli.output import Output
from troupe.cli.rollout import Course, Progress, stage
from troupe.cli.rollout_view import shown
from troupe.v1.control_plane_pb2 import RevisionInfo
from troupe.v1.rollout_pb2 import RolloutStage

_NEXT = {
    RolloutStage.ROLLOUT_STAGE_HALTED: "correct it and apply it again, or `troupe rollback`",
    RolloutStage.ROLLOUT_STAGE_ROLLED_BACK: "correct it and apply it again",
    RolloutStage.ROLLOUT_STAGE_SUPERSEDED: "`troupe status` shows how the newer one fares",
}


@dataclass(frozen=True, slots=True)
class Waited:
    """How the rollout stood when the waiting ended. `late`: because its time was over."""

    course: Course
    late: DeadlineExceeded | None = None

    def document(self) -> dict[str, Any]:
        """For programs."""
        workers = [
            {"workerId": one.worker_id, "phase": one.phase, "reason": one.reason} for one in self.course.stands()
        ]
        return {"revision": self.course.revision, "workers": workers}

    def judge(self) -> None:
        """Raise Refused unless the revision is COMPLETE, after a line that says why, or `late`. Workers that failed
        with it all the same are named on lines of their own."""
        course, revision = self.course, self.course.revision
        if self.late is not None:
            raise self.late
        if not course.complete:
            how = f"{stage(revision.rollout)}: {course.explained}; {_NEXT[revision.rollout.stage]}"
            complain(f"revision {revision.generation} is {how}")
            raise Refused
        for one in course.stands():
            if one.progress is Progress.FAILED:
                note(f"{one}; it runs on without revision {revision.generation}")


async def watched(output: Output, fleet: ControlPlane, revision: RevisionInfo, timeout: float) -> Waited:
    """Show the rollout until its end. Ctrl-C leaves it to itself, and says so. Raises what `follow` does, a deadline
    aside."""
    newest = [Course(revision)]
    try:
        with shown(output) as seen:

            def heard(course: Course) -> None:
                newest[:] = [course]
                seen(course)

            return Waited(await follow(fleet, revision, timeout, heard))
    except DeadlineExceeded as error:
        return Waited(newest[0], error)
    except asyncio.CancelledError:
        note(f"the rollout of revision {revision.generation} goes on without you; see `troupe status`")
        raise
