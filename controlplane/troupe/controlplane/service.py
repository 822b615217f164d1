"""ControlPlaneService: requests checked and bounded here, decided elsewhere."""

import asyncio
import math
import re
from collections.abc import Iterator
from typing import Any

import grpc

from troupe.chassis.address import Address
from troupe.chassis.errors import InvalidArgument, NotFound, Violation
from troupe.chassis.wire import duration, timestamp
from troupe.controlplane import metrics
from troupe.controlplane.placement import Member
from troupe.controlplane.revisions import Summary
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.port import RevisionStore
from troupe.controlplane.syncs import Syncs
from troupe.controlplane.watching import too_slow
from troupe.controlplane.workers import Workers
from troupe.resources.validation import NAME
from troupe.v1 import control_plane_pb2_grpc as served
from troupe.v1.control_plane_pb2 import (
    DESCRIPTOR,
    GetRevisionRequest,
    GetRevisionResponse,
    ListRevisionsRequest,
    ListRevisionsResponse,
    RegisterRequest,
    RegisterResponse,
    RevisionInfo,
    SyncRequest,
    SyncResponse,
    WatchStatusRequest,
    WatchStatusResponse,
)

SERVICE = DESCRIPTOR.services_by_name["ControlPlaneService"].full_name

DEFAULT_PAGE, LARGEST_PAGE = 20, 100
MAX_INSTANCE_BYTES = 128

_PAGE_TOKEN = re.compile(r"[0-9]{1,18}", re.ASCII)
"""The generation of the last revision of the page before."""

Context = grpc.aio.ServicerContext[Any, Any]


class ControlPlane(served.ControlPlaneServiceServicer):
    """The service over one fleet."""

    def __init__(
        self, settings: ControlPlaneSettings, store: RevisionStore, syncs: Syncs, status: FleetStatus, workers: Workers
    ) -> None:
        self._settings = settings
        self._store, self._syncs, self._status, self._workers = store, syncs, status, workers

    async def Sync(self, request: SyncRequest, context: Context) -> SyncResponse:  # noqa: N802
        about = await self._syncs.sync(request)
        head = await self._store.head()
        return SyncResponse(revision=_info(about, head.revision_id))

    # A coroutine that writes: a generator could not know how long a piece waits for its reader.
    async def WatchStatus(self, request: WatchStatusRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        with self._status.watching(await self._current()) as watch:
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

    async def Register(self, request: RegisterRequest, context: Context) -> RegisterResponse:  # noqa: N802
        violations = list(_wrong_fields(request))
        if violations:
            first = violations[0]
            raise InvalidArgument("INVALID_WORKER", f"{first.field} {first.description}", violations=violations)
        member = Member(request.worker_id, request.instance_id, request.address)
        await self._workers.register(member, request.capacity)
        return RegisterResponse(
            lease=duration(self._settings.lease),
            renew_after=duration(self._settings.renew_after),
            term=self._workers.term,
        )

    async def GetRevision(self, request: GetRevisionRequest, context: Context) -> GetRevisionResponse:  # noqa: N802
        head = await self._store.head()
        wanted = request.revision_id or head.revision_id
        if not wanted:
            raise NotFound("NO_REVISION", "nothing has been applied to this fleet yet")
        found = await self._store.revision(wanted)
        if found is None:
            raise NotFound("REVISION_UNKNOWN", f"no revision {wanted[:64]} is kept; list the revisions that are")
        config, about = found
        return GetRevisionResponse(revision=_info(about, head.revision_id), config=config)

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
            revisions=[_info(about, head.revision_id) for about in found[:size]], next_page_token=more
        )

    async def _current(self) -> RevisionInfo | None:
        found = await self._store.revisions(1)
        return _info(found[0], found[0].revision_id) if found else None


def _info(about: Summary, current: str) -> RevisionInfo:
    return RevisionInfo(
        revision_id=about.revision_id,
        parent_revision_id=about.parent_revision_id,
        generation=about.generation,
        term=about.term,
        content_hash=about.content_hash,
        created_at=timestamp(about.created_at),
        resource_count=about.resource_count,
        current=about.revision_id == current,
    )


def _wrong_fields(request: RegisterRequest) -> Iterator[Violation]:
    if not NAME.fullmatch(request.worker_id):
        yield Violation("worker_id", "must be 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")
    instance = request.instance_id
    if not instance or len(instance.encode()) > MAX_INSTANCE_BYTES or not instance.isprintable():
        yield Violation("instance_id", f"must be printable text of 1 to {MAX_INSTANCE_BYTES} bytes")
    try:
        reachable = len(request.address) <= 300 and Address.parse(request.address).port > 0
    except ValueError:
        reachable = False
    if not reachable or not request.address.isprintable():
        yield Violation("address", "must be host:port where the control plane reaches the worker")
    if not (math.isfinite(request.capacity.cpus) and request.capacity.cpus >= 0):
        yield Violation("capacity.cpus", "must be 0 or more processors")


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_REQUEST", f"{field} {problem}", violations=[Violation(field, problem)])
