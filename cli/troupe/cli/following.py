"""Following one revision to the end of its rollout, whatever happens to the control plane meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from troupe.chassis.errors import DeadlineExceeded, NotFound, Unavailable
from troupe.cli.clients import ControlPlane
from troupe.cli.fleet_status import REOPEN_AFTER, watch
from troupe.cli.rollout import ENDS, HALTED, Course, Progress, goes_back, stage
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus
from troupe.v1.status_pb2 import HEALTH_STATE_LOST


async def follow(
    control_plane: ControlPlane, revision: RevisionInfo, timeout: float, seen: Callable[[Course], None]
) -> Course:
    """Wait until the revision's rollout is at its end; how it ended. While it is rolled back, until that is done.
    `seen` hears how it stands, at first and after each change. Raises DeadlineExceeded, saying who is missing, after
    `timeout` seconds, and NotFound where the revision is kept no more. Cancelling changes nothing: the rollout goes on.
    """
    course = Course(revision)
    try:
        async with asyncio.timeout(timeout):
            async for course in _courses(control_plane, revision):
                seen(course)
    except TimeoutError as error:
        raise DeadlineExceeded("ROLLOUT_UNFINISHED", _unfinished(course, timeout)) from error
    return course


async def _courses(control_plane: ControlPlane, revision: RevisionInfo) -> AsyncIterator[Course]:
    """How it stands, after each change, until its end."""
    course, asked = Course(revision), RevisionInfo()
    said: dict[str, object] = {}
    async with contextlib.aclosing(watch(control_plane)) as stream:
        async for status in stream:
            if not status.answers:
                yield replace(course, answers=False)
                continue
            another = _tells_of_another(status.current, course.revision)
            # Where the newest one is at its end and ours is not, that is about to follow.
            about_to_end = another and status.current.rollout.stage in ENDS
            word = _word(status.known.get(status.about))
            if status.about and said.get(status.about) == word and not about_to_end:
                continue
            said[status.about] = word
            if about_to_end or (another and asked != status.current):
                # Newer than what the stream says: that has lain in it while this was asked.
                course, asked = replace(course, kept=await _revisions(control_plane)), status.current
                course = _course(course, tuple(status.known.values()))
            else:
                course = _course(course, tuple(status.known.values()), status.current)
            if course.revision.rollout.stage == HALTED and not course.kept:
                course = replace(course, kept=await _revisions(control_plane))
            yield course
            if course.revision.rollout.stage in ENDS and not goes_back(course.revision, course.kept):
                return


def _word(worker: WorkerStatus | None) -> object:
    """What of a worker's status matters to a rollout: most reports, of which each worker makes one a second, differ in
    nothing of that."""
    if worker is None:
        return None
    report, lost = worker.report, worker.report.health.state == HEALTH_STATE_LOST
    return report.instance_id, report.last_attempt.revision_id, report.last_attempt.phase, lost


def _tells_of_another(current: RevisionInfo, followed: RevisionInfo) -> bool:
    """What follows ours is the newest now; an older one is what a control plane says that has not caught up."""
    newer = (current.term, current.generation) > (followed.term, followed.generation)
    return current.revision_id != followed.revision_id and newer


def _course(before: Course, workers: tuple[WorkerStatus, ...], newest: RevisionInfo | None = None) -> Course:
    known = {one.revision_id: one for one in before.kept}
    if known and before.revision.revision_id not in known:
        raise NotFound(
            "REVISION_UNKNOWN",
            f"revision {before.revision.generation} is not kept any more; `troupe get revisions` lists those that are",
        )
    if newest is not None:
        known[newest.revision_id] = newest
    revision = known.get(before.revision.revision_id, before.revision)
    return Course(revision, workers, tuple(known.values()) if before.kept else ())


async def _revisions(control_plane: ControlPlane) -> tuple[RevisionInfo, ...]:
    """Those that are kept, asked for until there is an answer."""
    while True:
        try:
            return tuple(await control_plane.revisions())
        except Unavailable:
            await asyncio.sleep(REOPEN_AFTER)


def _unfinished(course: Course, timeout: float) -> str:
    found = course.ways_back() or course.stands()
    missing = [str(one) for one in found if one.progress not in (Progress.APPLIED, Progress.FAILED)]
    who = "; ".join(missing) if missing else "no other worker is there" if found else "no worker is there"
    now = stage(course.revision.rollout)
    return (
        f"revision {course.revision.generation} is {now or 'not everywhere'} after {timeout:g} s ({who}); "
        "the rollout goes on; see `troupe status`"
    )
