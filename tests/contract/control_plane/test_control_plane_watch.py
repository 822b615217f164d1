"""The fleet's status, as it is watched over gRPC."""

import asyncio
from pathlib import Path

import grpc
import pytest
from prometheus_client import REGISTRY
from support.control_planes import Client, complete, control_plane, snapshot, workers
from support.fake_workers import FakeWorker, attempt_at
from support.fleets import fleet

from troupe.chassis.errors import (
    ResourceExhausted,
)
from troupe.chassis.rpc_client import translated
from troupe.v1.control_plane_pb2 import (
    WatchStatusRequest,
    WatchStatusResponse,
)
from troupe.v1.status_pb2 import HEALTH_STATE_LOST, ApplyPhase, RevisionAttempt
from troupe.v1.turn_pb2 import ErrorDetail


async def test_a_watch_gives_snapshot_synced_and_deltas(client: Client) -> None:
    revision = await client.sync(fleet())
    worker = FakeWorker()
    async with workers(worker):
        await client.register(worker)
        await worker.until(lambda one: one.runs(revision.revision_id))
        revision = await complete(client, revision.revision_id)
        pieces: list[WatchStatusResponse] = []
        async with asyncio.timeout(10):
            async for piece in client.watch():
                pieces.append(piece)
                if piece.WhichOneof("kind") == "synced":
                    await worker.report(attempt_at(worker.asked[-1], ApplyPhase.APPLY_PHASE_ABANDONED))
                attempt = piece.worker.report.last_attempt
                if attempt.phase == ApplyPhase.APPLY_PHASE_ABANDONED:
                    break
    kinds = [piece.WhichOneof("kind") for piece in pieces]
    assert kinds[:2] == ["worker", "synced"]
    assert set(kinds[2:]) <= {"worker", "revision"}
    assert (pieces[0].worker.worker_id, pieces[0].worker.address) == ("worker-0", worker.address)
    assert pieces[1].synced.current == revision


async def test_a_silent_worker_is_lost_and_forgotten_when_its_shards_are_elsewhere(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    async with control_plane(tmp_path, lease=2.0, renew_after=0.5, forget_after=0.5) as client, workers(one):
        async with two.serving():
            await client.register(one)
            await client.register(two)
            await two.until(lambda worker: bool(worker.shards()))
        seen: list[str] = []
        async with asyncio.timeout(20):
            async for piece in client.watch():
                if piece.worker.worker_id == "two" and piece.worker.report.health.state == HEALTH_STATE_LOST:
                    seen.append(piece.worker.report.health.cause)
                if piece.removed_worker_id:
                    break
        assert piece.removed_worker_id == "two"
        assert seen, "it was LOST before"
        assert len(one.shards()) == 128
        synced = [piece async for piece in snapshot(client)]
        assert [piece.worker.worker_id for piece in synced[:-1]] == ["one"]


async def test_a_watcher_that_does_not_read_is_cut_off_and_nobody_else_notices(tmp_path: Path) -> None:
    """It is sent more than its connection buffers: large statuses, until a write waits for too long."""
    worker = FakeWorker()
    async with control_plane(tmp_path, watcher_patience=0.5) as client, workers(worker), asyncio.timeout(30):
        await client.register(worker)
        slow = client.stub.WatchStatus(WatchStatusRequest())
        await slow.read()
        quick = client.watch()
        cut_off = REGISTRY.get_sample_value("troupe_controlplane_slow_watchers_total")
        number = 0
        while REGISTRY.get_sample_value("troupe_controlplane_slow_watchers_total") == cut_off:
            number += 1
            await worker.report(RevisionAttempt(error=ErrorDetail(reason=f"NUMBER_{number}", message="x" * 400_000)))
            async for piece in quick:
                if piece.worker.report.last_attempt.error.reason == f"NUMBER_{number}":
                    break
        with pytest.raises(ResourceExhausted) as raised, translated():
            while await slow.read() is not grpc.aio.EOF:
                pass
        assert raised.value.reason == "WATCHER_TOO_SLOW"


async def test_watchers_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_watchers=1) as client:
        watching = client.stub.WatchStatus(WatchStatusRequest())
        await watching.read()
        with pytest.raises(ResourceExhausted) as raised:
            await anext(client.watch())
        assert raised.value.reason == "TOO_MANY_WATCHERS"
        watching.cancel()
