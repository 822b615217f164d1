"""Several control planes of one fleet: one leads, the others stand by and take over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from support.control_planes import Client, complete, control_plane, first, snapshot, workers
from support.fake_workers import FakeWorker, attempt_at, reject
from support.fleets import fleet

from troupe.chassis.errors import NotFound, Unavailable
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import RolloutStage
from troupe.v1.status_pb2 import HEALTH_STATE_HEALTHY, HEALTH_STATE_UNSPECIFIED, RevisionAttempt

QUICK = {"leader_lease": 10.0, "leader_renew_deadline": 6.0, "leader_retry": 0.1}
"""One that stops resigns, and is not waited for."""


@asynccontextmanager
async def leader_then_standby(data: Path, **settings: Any) -> AsyncIterator[tuple[Client, Client, AsyncExitStack]]:
    """One that leads, one that stands by, and what ends the first."""
    async with AsyncExitStack() as standing, AsyncExitStack() as leading:
        one = await leading.enter_async_context(control_plane(data, **QUICK, **settings))
        other = await standing.enter_async_context(control_plane(data, **QUICK, **settings))
        yield one, other, leading


async def takes_writes(client: Client) -> None:
    """Wait until it leads."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.drain("nobody")
            except Unavailable:
                await asyncio.sleep(0.02)
            except NotFound:
                return


async def test_one_that_stands_by_refuses_writes_and_says_who_leads(tmp_path: Path) -> None:
    worker = FakeWorker()
    async with leader_then_standby(tmp_path) as (one, other, _), workers(worker):
        await one.sync(fleet())
        for call in (
            other.sync(fleet()),
            other.sync(fleet(), validate_only=True),
            other.register(worker),
            other.drain("worker-0"),
            other.roll_back("x"),
        ):
            with pytest.raises(Unavailable) as raised:
                await call
            assert raised.value.reason == "NOT_LEADER"
            assert raised.value.metadata["leader_address"] == one.address
            assert one.address in str(raised.value)


async def test_one_that_stands_by_answers_reads_from_the_store(tmp_path: Path) -> None:
    worker = FakeWorker()
    async with leader_then_standby(tmp_path) as (one, other, _), workers(worker):
        revision = await one.sync(fleet())
        await one.register(worker)
        revision = await complete(one, revision.revision_id)
        assert (await other.revision()).revision == revision
        assert list((await other.revisions()).revisions) == [revision]
        assert await complete(other, revision.revision_id) == revision

        def known(piece: Any) -> bool:
            return bool(piece.worker.report.last_attempt.revision_id)

        shown = (await first(other, known)).worker
        assert (shown.worker_id, shown.report.last_attempt.revision_id) == ("worker-0", revision.revision_id)
        assert shown.report.health.state == HEALTH_STATE_UNSPECIFIED, "only the leader hears it"
        assert shown.report.sequence == 0


async def test_when_the_leader_stops_the_other_takes_over_and_goes_on(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def slowly(config: ConfigSpec) -> RevisionAttempt:
        await held.wait()
        return attempt_at(config)

    fakes = [FakeWorker(name, take=slowly) for name in ("a", "b", "c")]
    async with leader_then_standby(tmp_path, workers=3, shards=6) as (one, other, leading), workers(*fakes):
        for fake in fakes:
            await one.register(fake)
        revision = await one.sync(fleet())
        await fakes[0].until(lambda fake: bool(fake.asked))
        watch = other.watch()
        await anext(watch)
        await leading.aclose()
        await takes_writes(other)
        held.set()
        done = await complete(other, revision.revision_id)
        assert done.term == 1, "it is the revision of the leader before"
        for fake in fakes:
            await fake.until(lambda fake: fake.runs(revision.revision_id) and fake.placements[-1].term == 2)
            assert {(shard.epoch, shard.worker_id) for shard in fake.placements[-1].shards} <= {
                (1, "a"),
                (1, "b"),
                (1, "c"),
            }, "nothing has moved"
        async with asyncio.timeout(10):
            async for piece in watch:
                if piece.worker.report.health.state == HEALTH_STATE_HEALTHY:
                    break  # a watch that was opened before goes on, and hears what the new leader hears


async def test_a_rollback_goes_on_under_the_next_leader(tmp_path: Path) -> None:
    held = asyncio.Event()
    fakes = [FakeWorker(name) for name in ("a", "b", "c")]
    async with leader_then_standby(tmp_path) as (one, other, leading), workers(*fakes):
        for fake in fakes:
            await one.register(fake)
        good = await one.sync(fleet())
        await complete(one, good.revision_id)

        async def refuse_the_second(config: ConfigSpec) -> RevisionAttempt:
            if config.generation == 2:
                return await reject(config)
            await held.wait()
            return attempt_at(config)

        for fake in fakes:
            fake.take = refuse_the_second
        bad = await one.sync(fleet(prompt="Bad."), parent=good.revision_id)

        def rolling_back(piece: Any) -> bool:
            return bool(piece.revision.rollout.rollback_of_revision_id)

        back = (await first(one, rolling_back)).revision
        await leading.aclose()
        await takes_writes(other)
        held.set()
        await complete(other, back.revision_id)
        stages = [about.rollout.stage for about in (await other.revisions()).revisions]
        assert stages == [
            RolloutStage.ROLLOUT_STAGE_COMPLETE,
            RolloutStage.ROLLOUT_STAGE_ROLLED_BACK,
            RolloutStage.ROLLOUT_STAGE_COMPLETE,
        ]
        left = (await other.revision(bad.revision_id)).revision.rollout
        assert "this tool cannot be imported" in left.reason
        assert left.rolled_back_by_revision_id == back.revision_id


async def test_the_metrics_say_who_leads(tmp_path: Path) -> None:
    async with control_plane(tmp_path, **QUICK) as client:
        assert REGISTRY.get_sample_value("troupe_controlplane_leader") == 1
        assert REGISTRY.get_sample_value("troupe_controlplane_term") == 1
        assert [piece async for piece in snapshot(client)][-1].WhichOneof("kind") == "synced"
