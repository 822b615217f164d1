"""ControlPlaneService: requests checked and bounded here, decided elsewhere."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from troupe.chassis.errors import InvalidArgument, NotFound, Violation
from troupe.chassis.wire import duration
from troupe.controlplane import metrics
from troupe.controlplane.access import check_worker
from troupe.controlplane.infos import info
from troupe.controlplane.registration import registration
from troupe.controlplane.reign import Reign
from troupe.controlplane.seat import Seat
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.port import Deposed, RevisionStore
from troupe.controlplane.watching import too_slow
from troupe.v1 import control_plane_pb2_grpc as served
from troupe.v1.control_plane_pb2 import (
    DESCRIPTOR,
    DrainRequest,
    DrainResponse,
    GetRevisionRequest,
    GetRevisionResponse,
    ListRevisionsRequest,
    ListRevisionsResponse,
    RegisterRequest,
    RegisterResponse,
    RollbackRequest,
    RollbackResponse,
    SyncRequest,
    SyncResponse,
    WatchStatusRequest,
    WatchStatusResponse,
)

SERVICE = DESCRIPTOR.services_by_name["ControlPlaneService"].full_name

DEFAULT_PAGE, LARGEST_PAGE = 20, 100

_PAGE_TOKEN = re.compile(r"[0-9]{1,18}", re.ASCII)
"""The generation of the last revision of the page before."""

Context = grpc.aio.ServicerContext[Any, Any]


class ControlPlane(served.ControlPlaneServiceServicer):
    """The service over one fleet."""

    def __init__(self, settings: ControlPlaneSettings, store: RevisionStore, status: FleetStatus, seat: Seat) -> None:
        self._settings, self._store, self._status, self._seat = settings, store, status, seat

    async def Sync(self, request: SyncRequest, context: Context) -> SyncResponse:  # noqa: N802
        with self._writing() as reign:
            about = await reign.syncs.sync(request)
        return SyncResponse(revision=info(about, reign.current))

    async def Rollback(self, request: RollbackRequest, context: Context) -> RollbackResponse:  # noqa: N802
        with self._writing() as reign:
            about = await reign.syncs.roll_back(request)
        return RollbackResponse(revision=info(about, reign.current))

    async def Register(self, request: RegisterRequest, context: Context) -> RegisterResponse:  # noqa: N802
        member, weight = registration(request)
        check_worker(member.worker_id)
        with self._writing() as reign:
            await reign.register(member, request.capacity, weight)
        return RegisterResponse(
            lease=duration(self._settings.lease), renew_after=duration(self._settings.renew_after), term=reign.term
        )

    async def Drain(self, request: DrainRequest, context: Context) -> DrainResponse:  # noqa: N802
        with self._writing() as reign:
            return DrainResponse(instance_id=await reign.drain(request.worker_id))

    @contextmanager
    def _writing(self) -> Iterator[Reign]:
        """The reign in which this process writes. Raises NOT_LEADER where it does not, or finds out in the middle."""
        try:
            yield self._seat.writer()
        except Deposed as error:
            raise self._seat.not_leader() from error

    # A coroutine that writes: a generator could not know how long a piece waits for its reader.
    async def WatchStatus(self, request: WatchStatusRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        with self._status.watching() as watch:
            while True:
                await self._written(context, await watch.get())

    async def _written(self, context: Context, piece: WatchStatusResponse) -> None:
        """A write returns when the client's windows take the piece: one that does not read holds it up."""
        try:
            async with asyncio.timeout(self._settings.watcher_patience):
                await context.write(piece)
        except TimeoutError as error:
            metrics.SLOW_WATCHERS.inc()
            raise too_slow() from error

    async def GetRevision(self, request: GetRevisionRequest, context: Context) -> GetRevisionResponse:  # noqa: N802
        head = await self._store.head()
        wanted = request.revision_id or head.revision_id
        if not wanted:
            raise NotFound("NO_REVISION", "nothing has been applied to this fleet yet")
        found = await self._store.revision(wanted)
        if found is None:
            raise NotFound("REVISION_UNKNOWN", f"no revision {wanted[:64]} is kept; list the revisions that are")
        config, about = found
        return GetRevisionResponse(revision=info(about, head.revision_id), config=config)

    async def ListRevisions(  # noqa: N802
        self, request: ListRevisionsRequest, context: Context
    ) -> ListRevisionsResponse:
        size = request.page_size or DEFAULT_PAGE
        if size > LARGEST_PAGE:
            raise _invalid("page_size", f"must be 1 to {LARGEST_PAGE}, not {size}")
        if request.page_token and not _PAGE_TOKEN.fullmatch(request.page_token):
            raise _invalid("page_token", "is not one that ListRevisions gave out")
        before = int(request.page_token) if request.page_token else None
        head = await self._store.head()
        found = await self._store.revisions(size + 1, before)
        more = str(found[size - 1].generation) if len(found) > size else ""
        return ListRevisionsResponse(
            revisions=[info(about, head.revision_id) for about in found[:size]], next_page_token=more
        )


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_REQUEST", f"{field} {problem}", violations=[Violation(field, problem)])
