"""The fleet's status as the control plane streams it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from troupe.chassis.errors import ResourceExhausted, Unavailable
from troupe.cli.clients import ControlPlane
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus

REOPEN_AFTER = 0.5
"""Seconds before a broken watch is opened again."""


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The newest revision, whose id is empty before the first, and every worker by name."""

    current: RevisionInfo
    workers: tuple[WorkerStatus, ...]


async def snapshot(control_plane: ControlPlane) -> FleetStatus:
    """The fleet as it is now."""
    async with contextlib.aclosing(_stream(control_plane)) as stream:
        async for status in stream:
            return status
    raise Unavailable("WATCH_ENDED", "the control plane ended its status before it was complete; try again")


async def watch(control_plane: ControlPlane) -> AsyncGenerator[FleetStatus, None]:
    """The whole fleet, once it is known and after each change, without end. A watch that breaks is opened again and
    waits as long as it takes; only the first one's failure to open is raised."""
    opened = False
    while True:
        try:
            async for status in _stream(control_plane):
                opened = True
                yield status
        except (Unavailable, ResourceExhausted):
            if not opened:
                raise
        await asyncio.sleep(REOPEN_AFTER)


async def _stream(control_plane: ControlPlane) -> AsyncGenerator[FleetStatus, None]:
    current: RevisionInfo | None = None
    workers: dict[str, WorkerStatus] = {}
    async for response in control_plane.watch():
        match response.WhichOneof("kind"):
            case "worker":
                workers[response.worker.worker_id] = response.worker
            case "removed_worker_id":
                workers.pop(response.removed_worker_id, None)
            case "synced":
                current = response.synced.current
        if current is not None:
            yield FleetStatus(current, tuple(workers[name] for name in sorted(workers)))
