"""The fleet's status as the control plane streams it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace

from troupe.chassis.errors import ResourceExhausted, Unavailable
from troupe.cli.clients import ControlPlane
from troupe.cli.output import natural
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus
from troupe.v1.status_pb2 import RevisionAttempt, RunningRevision

REOPEN_AFTER = 0.5
"""Seconds before a broken watch is opened again."""


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The newest revision, whose id is empty before the first, and every worker by name."""

    current: RevisionInfo
    known: Mapping[str, WorkerStatus]
    about: str = ""
    """The worker whose news this is; empty where it is that of all, or of the revision."""
    answers: bool = True
    """Whether a control plane says so now; else it is what one said last, before the watch broke."""

    @property
    def workers(self) -> list[WorkerStatus]:
        """In the order of their names."""
        return [self.known[name] for name in sorted(self.known, key=natural)]

    def generations(self) -> dict[str, int]:
        """Of every revision that it tells of, by id."""
        told: list[RevisionInfo | RunningRevision | RevisionAttempt] = [self.current]
        for worker in self.known.values():
            told += [worker.report.running, worker.report.last_attempt]
        return {one.revision_id: one.generation for one in told if one.revision_id}


async def snapshot(control_plane: ControlPlane) -> FleetStatus:
    """The fleet as it is now."""
    async with contextlib.aclosing(_stream(control_plane)) as stream:
        async for status in stream:
            return status
    raise Unavailable("WATCH_ENDED", "the control plane ended its status before it was complete; try again")


async def watch(control_plane: ControlPlane) -> AsyncGenerator[FleetStatus, None]:
    """The whole fleet, once it is known and after each change, without end. A watch that breaks says what was known
    once more, as what nobody answers for, is opened again and waits as long as it takes; only the first one's failure
    to open is raised."""
    known: FleetStatus | None = None
    while True:
        try:
            async with contextlib.aclosing(_stream(control_plane)) as stream:
                async for known in stream:
                    yield known
        except (Unavailable, ResourceExhausted):
            if known is None:
                raise
        if known is not None and known.answers:
            known = replace(known, about="", answers=False)
            yield known
        await asyncio.sleep(REOPEN_AFTER)


async def _stream(control_plane: ControlPlane) -> AsyncGenerator[FleetStatus, None]:
    current: RevisionInfo | None = None
    workers: dict[str, WorkerStatus] = {}
    async for response in control_plane.watch():
        about = ""
        match response.WhichOneof("kind"):
            case "worker":
                about = response.worker.worker_id
                workers[about] = response.worker
            case "removed_worker_id":
                about = response.removed_worker_id
                workers.pop(about, None)
            case "synced":
                current = response.synced.current
            case "revision" if current is not None:
                current = response.revision
        if current is not None:
            yield FleetStatus(current, workers.copy(), about)
