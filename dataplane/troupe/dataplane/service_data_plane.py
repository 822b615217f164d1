"""DataPlaneService: what the control plane tells a worker, and what the worker tells it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.config import Applier
from troupe.dataplane.load import Reporter
from troupe.v1 import data_plane_pb2_grpc as served
from troupe.v1.data_plane_pb2 import (
    DESCRIPTOR,
    ApplyRequest,
    ApplyResponse,
    PlaceRequest,
    PlaceResponse,
    ReportRequest,
    ReportResponse,
)
from troupe.v1.status_pb2 import ShardStatus

SERVICE = DESCRIPTOR.services_by_name["DataPlaneService"].full_name
MAX_SHARDS = 65_536
MAX_EPOCH = 2**63 - 1
"""What stores can hold as a number."""

Context = grpc.aio.ServicerContext[Any, Any]


class DataPlane(served.DataPlaneServiceServicer):
    """The service of one worker. `place` takes a placement and answers with the shards then held."""

    def __init__(
        self, applier: Applier, reporter: Reporter, place: Callable[[PlaceRequest], Awaitable[list[ShardStatus]]]
    ) -> None:
        self._applier, self._reporter, self._place = applier, reporter, place

    async def Apply(self, request: ApplyRequest, context: Context) -> ApplyResponse:  # noqa: N802
        config = request.config
        if not (config.revision_id and config.generation and config.term):
            raise InvalidArgument("BAD_CONFIG", "config: needs revision_id, generation and term")
        return ApplyResponse(attempt=await self._applier.apply(config))

    async def Place(self, request: PlaceRequest, context: Context) -> PlaceResponse:  # noqa: N802
        if not 1 <= request.shard_count <= MAX_SHARDS:
            raise InvalidArgument("BAD_SHARD_COUNT", f"shard_count: must lie between 1 and {MAX_SHARDS}")
        if any(shard.shard >= request.shard_count for shard in request.shards):
            raise InvalidArgument("BAD_SHARD", "shards: a shard's number must be below shard_count")
        if len({shard.shard for shard in request.shards}) < len(request.shards):
            raise InvalidArgument("BAD_SHARD", "shards: each may be named once")
        if not all(1 <= shard.epoch <= MAX_EPOCH for shard in request.shards):
            raise InvalidArgument("BAD_EPOCH", "shards: epochs lie between 1 and 2^63 - 1")
        return PlaceResponse(shards=await self._place(request))

    async def Report(self, request: ReportRequest, context: Context) -> AsyncIterator[ReportResponse]:  # noqa: N802
        async for report in self._reporter.reports():
            yield ReportResponse(report=report)
