"""Control planes in this process over gRPC, and what tests ask of them."""

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
    DrainRequest,
    GetRevisionRequest,
    ListRevisionsRequest,
    RevisionInfo,
    RollbackRequest,
    SyncRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.resource_pb2 import Resource
from troupe.v1.rollout_pb2 import RolloutPolicy, RolloutStage, WorkerShare

AT_ONCE = RolloutPolicy(canary=WorkerShare(workers=0), max_unavailable=WorkerShare(percent=100))
"""Every worker takes the revision at the same time."""


class Client:
    """The calls of a test on one control plane; errors are those that it raised."""

    def __init__(self, channel: grpc.aio.Channel, address: str = "") -> None:
        self.address = address
        self.stub = ControlPlaneServiceStub(channel)

    async def sync(
        self,
        resources: list[Resource],
        parent: str = "",
        revision_id: str = "",
        *,
        validate_only: bool = False,
        policy: RolloutPolicy | None = None,
    ) -> RevisionInfo:
        request = SyncRequest(
            revision_id=revision_id or uuid7(),
            parent_revision_id=parent,
            resources=resources,
            validate_only=validate_only,
            rollout=policy,
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

    async def drain(self, worker_id: str) -> Any:
        with translated():
            return await self.stub.Drain(DrainRequest(worker_id=worker_id))

    async def roll_back(self, left: str, to: str = "", revision_id: str = "") -> RevisionInfo:
        request = RollbackRequest(revision_id=revision_id or uuid7(), from_revision_id=left, to_revision_id=to)
        with translated():
            return (await self.stub.Rollback(request)).revision

    async def watch(self) -> AsyncIterator[WatchStatusResponse]:
        with translated():
            async for piece in self.stub.WatchStatus(WatchStatusRequest()):
                yield piece


@asynccontextmanager
async def control_plane(data: Path, **settings: Any) -> AsyncIterator[Client]:
    """A control plane with these settings, and a client of it."""
    chosen = ControlPlaneSettings(listen="127.0.0.1:0", data=data, **settings)
    async with running(chosen) as serving, rpc_client.channel(serving.address) as channel:
        yield Client(channel, serving.address)


@asynccontextmanager
async def workers(*fakes: FakeWorker) -> AsyncIterator[None]:
    """All of them serve."""
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


async def complete(client: Client, revision_id: str) -> RevisionInfo:
    """The revision, once its rollout is COMPLETE."""

    def done(piece: WatchStatusResponse) -> bool:
        newest = piece.synced.current if piece.WhichOneof("kind") == "synced" else piece.revision
        return newest.revision_id == revision_id and newest.rollout.stage == RolloutStage.ROLLOUT_STAGE_COMPLETE

    found = await first(client, done)
    return found.synced.current if found.WhichOneof("kind") == "synced" else found.revision


async def snapshot(client: Client) -> AsyncIterator[WatchStatusResponse]:
    """A watch up to the marker `synced`."""
    async for piece in client.watch():
        yield piece
        if piece.WhichOneof("kind") == "synced":
            return


def placed(shards: PlaceRequest) -> dict[int, tuple[int, str, str]]:
    return {shard.shard: (shard.epoch, shard.worker_id, shard.instance_id) for shard in shards.shards}
