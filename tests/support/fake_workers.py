"""Workers that serve a real DataPlaneService and do as a test tells them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from troupe.v1 import data_plane_pb2_grpc as served
from troupe.v1.control_plane_pb2 import RegisterRequest
from troupe.v1.data_plane_pb2 import (
    ApplyRequest,
    ApplyResponse,
    PlaceRequest,
    PlaceResponse,
    ReportRequest,
    ReportResponse,
)
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import (
    ApplyPhase,
    Health,
    HealthState,
    PlacementPosition,
    RevisionAttempt,
    RunningRevision,
    ShardState,
    ShardStatus,
    StatusReport,
)
from troupe.v1.turn_pb2 import ErrorDetail

Take = Callable[[ConfigSpec], Awaitable[RevisionAttempt]]


def attempt_at(
    config: ConfigSpec, phase: "ApplyPhase.ValueType" = ApplyPhase.APPLY_PHASE_APPLIED, error: ErrorDetail | None = None
) -> RevisionAttempt:
    """What a worker says of a revision that it tried."""
    return RevisionAttempt(
        revision_id=config.revision_id,
        generation=config.generation,
        term=config.term,
        content_hash=config.content_hash,
        phase=phase,
        error=error,
    )


async def apply(config: ConfigSpec) -> RevisionAttempt:
    """Take every revision."""
    return attempt_at(config)


async def reject(config: ConfigSpec) -> RevisionAttempt:
    """Refuse every revision for good."""
    error = ErrorDetail(code=9, reason="BROKEN", message="this tool cannot be imported", retryable=False)
    return attempt_at(config, ApplyPhase.APPLY_PHASE_ROLLED_BACK, error)


async def hang(config: ConfigSpec) -> RevisionAttempt:
    """Never answer."""
    await asyncio.Event().wait()
    return attempt_at(config)


class FakeWorker(served.DataPlaneServiceServicer):
    """Remembers what it was brought. Reports in full at first, then with each change and at least every second. It
    holds the shards that the placement gives to it, and releases those that are revoked at once while it `releases`."""

    def __init__(self, worker_id: str = "worker-0", instance_id: str = "", take: Take = apply) -> None:
        self.worker_id, self.instance_id, self.take = worker_id, instance_id or f"{worker_id}-first", take
        self.releases = True
        self.health = HealthState.HEALTH_STATE_HEALTHY
        self.asked: list[ConfigSpec] = []
        self.placements: list[PlaceRequest] = []
        self.address = ""
        self._running: RunningRevision | None = None
        self._attempt: RevisionAttempt | None = None
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeWorker"]:
        """Serve at a free port of the loopback."""
        server = grpc.aio.server()
        served.add_DataPlaneServiceServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def registration(self) -> RegisterRequest:
        """How this worker presents itself."""
        return RegisterRequest(worker_id=self.worker_id, instance_id=self.instance_id, address=self.address)

    async def until(self, holds: Callable[["FakeWorker"], bool], timeout: float = 10.0) -> None:
        """Wait until `holds` is true of this worker. Raises TimeoutError."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: holds(self))

    def runs(self, revision_id: str) -> bool:
        """Whether it runs that revision."""
        return self._running is not None and self._running.revision_id == revision_id

    async def report(self, attempt: RevisionAttempt | None = None) -> None:
        """Say that the last attempt came to this; or just what has changed."""
        async with self._changed:
            self._attempt = attempt or self._attempt
            self._changed.notify_all()

    def shards(self) -> list[ShardStatus]:
        """What it holds, by the newest placement that it was brought."""
        newest = self.placements[-1] if self.placements else PlaceRequest()
        return [
            ShardStatus(
                shard=shard.shard,
                epoch=shard.epoch,
                state=ShardState.SHARD_STATE_RELEASING if shard.revoked else ShardState.SHARD_STATE_ACTIVE,
            )
            for shard in newest.shards
            if shard.instance_id == self.instance_id and not (shard.revoked and self.releases)
        ]

    async def Apply(self, request: ApplyRequest, context: Any) -> ApplyResponse:  # noqa: N802
        config = request.config
        async with self._changed:
            self.asked.append(config)
            self._changed.notify_all()
        attempt = await self.take(config)
        async with self._changed:
            self._attempt = attempt
            if attempt.phase == ApplyPhase.APPLY_PHASE_APPLIED:
                self._running = RunningRevision(
                    revision_id=config.revision_id,
                    generation=config.generation,
                    term=config.term,
                    content_hash=config.content_hash,
                )
            self._changed.notify_all()
        return ApplyResponse(attempt=attempt)

    async def Place(self, request: PlaceRequest, context: Any) -> PlaceResponse:  # noqa: N802
        async with self._changed:
            self.placements.append(request)
            self._changed.notify_all()
        return PlaceResponse(shards=self.shards())

    async def Report(self, request: ReportRequest, context: Any) -> AsyncIterator[ReportResponse]:  # noqa: N802
        sequence = 0
        while True:
            sequence += 1
            report = self._report()
            said = report.SerializeToString(deterministic=True)
            report.sequence = sequence
            yield ReportResponse(report=report)
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0), self._changed:
                    while self._report().SerializeToString(deterministic=True) == said:
                        await self._changed.wait()

    def _report(self) -> StatusReport:
        report = StatusReport(
            worker_id=self.worker_id,
            instance_id=self.instance_id,
            running=self._running,
            last_attempt=self._attempt,
            health=Health(state=self.health),
            shards=self.shards(),
        )
        if self.placements:
            newest = self.placements[-1]
            report.placement.CopyFrom(PlacementPosition(term=newest.term, version=newest.version))
        return report
