"""Commands that are told of several control planes, over gRPC: each call finds the one that does it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from troupe.chassis import rpc
from troupe.chassis.errors import Aborted, InvalidArgument, NotFound, TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.service import ServiceSettings
from troupe.cli import clients
from troupe.cli.clients import control_plane
from troupe.v1.control_plane_pb2 import (
    GetRevisionRequest,
    GetRevisionResponse,
    RevisionInfo,
    Synced,
    SyncRequest,
    SyncResponse,
    WatchStatusRequest,
    WatchStatusResponse,
)
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceServicer, add_ControlPlaneServiceServicer_to_server

DOWN = "127.0.0.1:1"


def led_by(address: str) -> Unavailable:
    return Unavailable("NOT_LEADER", "another leads", metadata={"leader_address": address})


@dataclass
class Plane(ControlPlaneServiceServicer):
    """Takes writes, unless it `says` something else; everybody serves reads."""

    says: TroupeError | None = None
    address: str = ""
    asked: list[str] = field(default_factory=list)

    async def Sync(self, request: SyncRequest, context: Any) -> SyncResponse:  # noqa: N802
        self.asked.append(request.revision_id)
        if self.says is not None:
            raise self.says
        return SyncResponse(revision=RevisionInfo(revision_id=request.revision_id))

    async def GetRevision(self, request: GetRevisionRequest, context: Any) -> GetRevisionResponse:  # noqa: N802
        raise NotFound("NO_REVISION", "nothing has been applied")

    async def WatchStatus(self, request: WatchStatusRequest, context: Any) -> AsyncIterator[WatchStatusResponse]:  # noqa: N802
        yield WatchStatusResponse(synced=Synced())


@asynccontextmanager
async def planes(count: int) -> AsyncIterator[list[Plane]]:
    async with AsyncExitStack() as stack:
        found = [Plane() for _ in range(count)]  # type: ignore[abstract]
        for plane in found:

            def register(server: grpc.aio.Server, plane: Plane = plane) -> list[str]:
                add_ControlPlaneServiceServicer_to_server(plane, server)
                return []

            serving = await stack.enter_async_context(rpc.serving(ServiceSettings(metrics_listen=""), register))
            plane.address = serving.address
        yield found


async def test_a_write_reaches_the_leader_under_its_one_id() -> None:
    async with planes(3) as (a, b, c):
        a.says = b.says = led_by(c.address)
        revision_id = uuid7()
        async with control_plane(f"{DOWN},{a.address},{b.address}") as client:
            assert (await client.sync(SyncRequest(revision_id=revision_id))).revision_id == revision_id
            await client.sync(SyncRequest(revision_id=uuid7()))
        assert a.asked == c.asked[:1] == [revision_id]
        assert len(c.asked) == 2, "it stays with the leader"
        assert not b.asked


async def test_it_waits_for_one_to_take_over() -> None:
    async with planes(2) as (a, b):
        a.says = b.says = led_by(DOWN)

        async def take_over() -> None:
            while len(b.asked) < 2:  # noqa: ASYNC110 - the other end of a socket
                await asyncio.sleep(0.01)
            b.says = None

        async with (
            asyncio.timeout(15),
            asyncio.TaskGroup() as tasks,
            control_plane(f"{a.address},{b.address}") as client,
        ):
            tasks.create_task(take_over())
            await client.sync(SyncRequest(revision_id=uuid7()))


async def test_it_does_not_wait_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "ELECTION", 0.5)
    async with planes(1) as (a,):
        a.says = Unavailable("NOT_LEADER", "no control plane leads yet", retry_after=0.1)
        async with asyncio.timeout(10), control_plane(a.address) as client:
            with pytest.raises(Unavailable, match="no control plane leads"):
                await client.sync(SyncRequest(revision_id=uuid7()))
        assert len(a.asked) > 1


async def test_where_none_answers_it_says_so_at_once() -> None:
    before = time.monotonic()
    async with control_plane(f"{DOWN},127.0.0.1:2") as client:
        with pytest.raises(Unavailable) as unreachable:
            await client.sync(SyncRequest(revision_id=uuid7()))
    assert unreachable.value.reason == "UNREACHABLE"
    assert "127.0.0.1:2" in str(unreachable.value)
    assert time.monotonic() - before < 10


async def test_what_another_would_refuse_as_well_is_not_asked_again() -> None:
    async with planes(2) as (a, b):
        a.says = Aborted("STALE_PARENT", "read it and merge again")
        async with control_plane(f"{a.address},{b.address}") as client:
            with pytest.raises(Aborted):
                await client.sync(SyncRequest(revision_id=uuid7()))
        assert not b.asked


async def test_reads_and_streams_come_from_whoever_answers() -> None:
    async with planes(1) as (a,), control_plane(f"{DOWN},{a.address}") as client:
        assert [piece.HasField("synced") async for piece in client.watch()] == [True]
        assert not (await client.current()).HasField("revision")


async def test_what_is_no_address_is_told_in_one_line() -> None:
    with pytest.raises(InvalidArgument, match=r"--server .*host:port"):
        async with control_plane("nowhere"):
            pass
