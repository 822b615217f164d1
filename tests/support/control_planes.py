"""Control planes over gRPC, with workers that serve a real DataPlaneService in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from support.fake_workers import FakeWorker

from troupe.chassis import rpc_client
from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import translated
from troupe.controlplane.process import running
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.v1.control_plane_pb2 import (
    GetRevisionRequest,
    ListRevisionsRequest,
    RevisionInfo,
    SyncRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.resource_pb2 import Resource


class Client:
    """The calls of a test on one control plane; errors are those that it raised."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = ControlPlaneServiceStub(channel)

    async def sync(
        self, resources: list[Resource], parent: str = "", revision_id: str = "", *, validate_only: bool = False
    ) -> RevisionInfo:
        request = SyncRequest(
            revision_id=revision_id or uuid7(),
            parent_revision_id=parent,
            resources=resources,
            validate_only=validate_only,
        )
        with translated():
            return (await self.stub.Sync(request)).revision

    async def register(self, worker: FakeWorker) -> Any:
        with translated():
            return await self.stub.Register(worker.registration())

    async def revisions(self, **fields: Any) -> Any:
        with translated():
            return await self.stub.ListRevisions(ListRevisionsRequest(**fields))

    async def revision(self, revision_id: str = "") -> Any:
        with translated():
            return await self.stub.GetRevision(GetRevisionRequest(revision_id=revision_id))

    async def watch(self) -> AsyncIterator[WatchStatusResponse]:
        with translated():
            async for piece in self.stub.WatchStatus(WatchStatusRequest()):
                yield piece


@asynccontextmanager
async def control_plane(data: Path, **settings: Any) -> AsyncIterator[Client]:
    chosen = ControlPlaneSettings(listen="127.0.0.1:0", data=data, **settings)
    async with running(chosen) as serving, rpc_client.channel(serving.address) as channel:
        yield Client(channel)


@asynccontextmanager
async def workers(*fakes: FakeWorker) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for fake in fakes:
            await stack.enter_async_context(fake.serving())
        yield


async def first(client: Client, wanted: Any) -> WatchStatusResponse:
    """The first piece of a fresh watch for which `wanted` holds."""
    async with asyncio.timeout(10):
        async for piece in client.watch():
            if wanted(piece):
                return piece
    raise AssertionError("the stream ended")


def placed(shards: PlaceRequest) -> dict[int, tuple[int, str, str]]:
    return {shard.shard: (shard.epoch, shard.worker_id, shard.instance_id) for shard in shards.shards}
