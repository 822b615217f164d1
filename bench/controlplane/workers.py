"""`python -m bench.controlplane.workers SERVER FIRST COUNT`: that many workers in one process, each with a server of
its own, that take whatever they are brought at once. Prints their addresses, as one line of JSON, when all are
registered; ends with its standard input."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from troupe.chassis import rpc_options
from troupe.chassis.rpc_client import channel
from troupe.v1 import data_plane_pb2_grpc as served
from troupe.v1.control_plane_pb2 import RegisterRequest
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.data_plane_pb2 import (
    ApplyRequest,
    ApplyResponse,
    PlaceRequest,
    PlaceResponse,
    ReportRequest,
    ReportResponse,
)
from troupe.v1.status_pb2 import (
    ApplyPhase,
    Capacity,
    Health,
    HealthState,
    PlacementPosition,
    RevisionAttempt,
    RunningRevision,
    ShardState,
    ShardStatus,
    StatusReport,
)

RENEW = 3.0


class Worker(served.DataPlaneServiceServicer):
    """Runs what it was brought last."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id, self.address = worker_id, ""
        self._report = StatusReport(
            worker_id=worker_id,
            instance_id=f"{worker_id}-only",
            health=Health(state=HealthState.HEALTH_STATE_HEALTHY),
            capacity=Capacity(cpus=1.0),
        )
        self._changed = asyncio.Event()

    @property
    def registration(self) -> RegisterRequest:
        report = self._report
        return RegisterRequest(
            worker_id=self.worker_id, instance_id=report.instance_id, address=self.address, capacity=report.capacity
        )

    async def Apply(self, request: ApplyRequest, context: Any) -> ApplyResponse:  # noqa: N802
        config = request.config
        running = RunningRevision(
            revision_id=config.revision_id,
            generation=config.generation,
            term=config.term,
            content_hash=config.content_hash,
        )
        attempt = RevisionAttempt(
            revision_id=config.revision_id,
            generation=config.generation,
            term=config.term,
            content_hash=config.content_hash,
            phase=ApplyPhase.APPLY_PHASE_APPLIED,
        )
        # What does not come from a control plane is answered and not kept: it is the bare fan-out.
        if config.term:
            self._report.running.CopyFrom(running)
            self._report.last_attempt.CopyFrom(attempt)
            self._say()
        return ApplyResponse(attempt=attempt)

    async def Place(self, request: PlaceRequest, context: Any) -> PlaceResponse:  # noqa: N802
        del self._report.shards[:]
        self._report.shards.extend(
            ShardStatus(shard=shard.shard, epoch=shard.epoch, state=ShardState.SHARD_STATE_ACTIVE)
            for shard in request.shards
            if shard.instance_id == self._report.instance_id and not shard.revoked
        )
        self._report.placement.CopyFrom(PlacementPosition(term=request.term, version=request.version))
        self._say()
        return PlaceResponse(shards=self._report.shards)

    async def Report(self, request: ReportRequest, context: Any) -> AsyncIterator[ReportResponse]:  # noqa: N802
        sequence = 0
        while True:
            sequence += 1
            changed = self._changed
            response = ReportResponse(report=self._report)
            response.report.sequence = sequence
            yield response
            try:
                async with asyncio.timeout(RENEW):
                    await changed.wait()
            except TimeoutError:
                continue

    def _say(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def serve(server: str, first: int, count: int) -> None:
    workers = [Worker(f"worker-{number:03}") for number in range(first, first + count)]
    servers = []
    for worker in workers:
        serving = grpc.aio.server(options=rpc_options.SERVER)
        served.add_DataPlaneServiceServicer_to_server(worker, serving)
        worker.address = f"127.0.0.1:{serving.add_insecure_port('127.0.0.1:0')}"
        await serving.start()
        servers.append(serving)
    async with channel(server) as control_plane, asyncio.TaskGroup() as group:
        stub = ControlPlaneServiceStub(control_plane)
        for worker in workers:
            await stub.Register(worker.registration)
        print(json.dumps([worker.address for worker in workers]), flush=True)
        renewing = group.create_task(_renewing(stub, workers))
        await asyncio.to_thread(sys.stdin.read)
        renewing.cancel()
    for serving in servers:
        await serving.stop(None)


async def _renewing(stub: Any, workers: list[Worker]) -> None:
    while True:
        await asyncio.sleep(RENEW)
        for worker in workers:
            await stub.Register(worker.registration)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
