"""kill -9 of the control plane that leads, at each stage of a rollout and of a handover, and revisions that fail: real
processes on a real RabbitMQ and Redis."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import rabbitmq, redis_server
from support.fleet_processes import FleetProcesses, fleet_processes
from support.fleets import actor
from support.recording_actor import STARTS

from troupe.chassis.ids import uuid7
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus
from troupe.v1.resource_pb2 import ActorSpec, Resource
from troupe.v1.rollout_pb2 import RolloutPolicy, RolloutStage, WorkerShare
from troupe.v1.status_pb2 import SHARD_STATE_ACTIVE, SHARD_STATE_RELEASING

pytestmark = pytest.mark.timeout(240)

SHARDS = 12
WORKERS = ("one", "two", "three")
RECORDER = actor("recorder", ActorSpec(entry_point="support.recording_actor:Recorder"))
BROKEN = actor("broken", ActorSpec(entry_point="support.recording_actor:Nothing"))
ONE_BY_ONE = RolloutPolicy(canary=WorkerShare(workers=1), max_unavailable=WorkerShare(workers=1), max_failures=0)
WATCHED: dict[str, Any] = {"health_window": 1.0, "health_checks": 2}
"""Each worker has a revision on trial for a second, so that a stage lasts long enough to be hit."""
CANARY, ROLLING = RolloutStage.ROLLOUT_STAGE_CANARY, RolloutStage.ROLLOUT_STAGE_ROLLING
COMPLETE, HALTED = RolloutStage.ROLLOUT_STAGE_COMPLETE, RolloutStage.ROLLOUT_STAGE_HALTED
ROLLING_BACK, ROLLED_BACK = RolloutStage.ROLLOUT_STAGE_ROLLING_BACK, RolloutStage.ROLLOUT_STAGE_ROLLED_BACK


@pytest.fixture
async def fleet(
    tmp_path: Path, node: rabbitmq.Node, store: redis_server.RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FleetProcesses]:
    """A leader, one that stands by, and three workers that run a first revision."""
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    broker = node.vhost()
    async with fleet_processes(tmp_path, broker, store.url(uuid7()), SHARDS) as fleet:
        await fleet.control_plane(workers=len(WORKERS))
        await fleet.control_plane(workers=len(WORKERS))
        await asyncio.gather(*(fleet.worker(name, **WATCHED) for name in WORKERS))
        await fleet.apply([RECORDER])
        await fleet.settled(*WORKERS)
        await ended(fleet)
        yield fleet
    node.drop_vhost(broker)


def version(number: int) -> list[Resource]:
    return [RECORDER, actor(f"more-{number}", ActorSpec(entry_point="support.recording_actor:Recorder"))]


async def at(fleet: FleetProcesses, *stages: "RolloutStage.ValueType") -> RevisionInfo:
    """The newest revision, once its rollout is at one of these."""
    async with asyncio.timeout(60):
        while (newest := await fleet.newest()).rollout.stage not in stages:
            await asyncio.sleep(0.02)
    return newest


async def ended(fleet: FleetProcesses) -> RevisionInfo:
    return await at(fleet, COMPLETE, HALTED, ROLLED_BACK)


async def run(fleet: FleetProcesses, revision_id: str) -> None:
    """Wait until every worker has the revision, and no trial goes on."""
    await fleet.until(
        lambda workers: all(
            workers[name].report.running.revision_id == revision_id == workers[name].report.last_attempt.revision_id
            and not workers[name].report.last_attempt.HasField("error")
            for name in WORKERS
        )
    )


@pytest.mark.parametrize("stage", ["committed", "canary", "rolling"])
async def test_a_rollout_goes_on_to_its_end_when_the_leader_is_killed(fleet: FleetProcesses, stage: str) -> None:
    leader = await fleet.leader()

    # Given a rollout at this stage, when the leader is killed
    revision_id = await fleet.apply(version(1), ONE_BY_ONE)
    if stage != "committed":
        assert (await at(fleet, CANARY if stage == "canary" else ROLLING)).revision_id == revision_id
    await leader.kill()

    # then the other one leads, and brings the same revision to the same end.
    newest = await ended(fleet)
    assert (newest.revision_id, newest.rollout.stage) == (revision_id, COMPLETE)
    assert [row.canary for row in newest.rollout.workers].count(True) == 1
    assert [row.failed for row in newest.rollout.workers] == [False] * 3
    await run(fleet, revision_id)
    assert (await fleet.leader()).address != leader.address
    assert len(await fleet.revisions()) == 2


@pytest.mark.parametrize("stage", ["failing", "on the way back"])
async def test_a_way_back_is_gone_once_when_the_leader_is_killed(fleet: FleetProcesses, stage: str) -> None:
    leader, good = await fleet.leader(), (await fleet.newest()).content_hash

    # Given a revision that no worker can prepare, when the leader is killed before or after it has turned back
    bad = await fleet.apply([RECORDER, BROKEN], ONE_BY_ONE)
    if stage == "on the way back":
        async with asyncio.timeout(60):
            while (await fleet.newest()).revision_id == bad:
                await asyncio.sleep(0.02)
    await leader.kill()

    # then the fleet goes back, once, and the revision says why: the worker, and the resource.
    async with asyncio.timeout(60):
        while (found := await fleet.revisions())[0].rollout.stage != COMPLETE or len(found) < 3:
            await asyncio.sleep(0.05)
    way_back, failed, _ = found
    assert (way_back.rollout.rollback_of_revision_id, way_back.content_hash) == (bad, good)
    assert (failed.revision_id, failed.rollout.stage) == (bad, ROLLED_BACK)
    (row,) = [row for row in failed.rollout.workers if row.failed]
    assert row.worker_id in failed.rollout.reason
    assert "broken" in row.error.message, "the resource is named"
    await run(fleet, way_back.revision_id)
    assert len(await fleet.revisions()) == 3


async def test_a_fix_in_the_middle_of_a_way_back_is_what_runs_in_the_end(fleet: FleetProcesses) -> None:
    bad = await fleet.apply([RECORDER, BROKEN], ONE_BY_ONE)
    async with asyncio.timeout(60):
        while (back := await fleet.newest()).revision_id == bad:
            await asyncio.sleep(0.02)

    # When the user's fix comes while the fleet is on its way back
    fix = await fleet.apply(version(2), ONE_BY_ONE, parent=back.revision_id)

    # then it is rolled out, and neither the bad one nor the way back comes again.
    newest = await ended(fleet)
    assert (newest.revision_id, newest.rollout.stage) == (fix, COMPLETE)
    await run(fleet, fix)
    await asyncio.sleep(2.0)  # nothing must follow, so there is nothing to wait for
    stages = {about.revision_id: about.rollout.stage for about in await fleet.revisions()}
    assert len(stages) == 4
    assert stages[fix] == COMPLETE
    assert not {stages[bad], stages[back.revision_id]} & {CANARY, ROLLING, ROLLING_BACK}


@pytest.mark.parametrize("stage", ["joined", "releasing", "acquired"])
async def test_a_handover_goes_on_to_its_end_when_the_leader_is_killed(fleet: FleetProcesses, stage: str) -> None:
    leader, before = await fleet.leader(), await fleet.held()

    # Given a fourth worker that is to have its share, when the leader is killed with some of it handed over
    joining = asyncio.create_task(fleet.worker("four", **WATCHED))
    await fleet.until(lambda workers: "four" in workers)
    if stage == "releasing":
        await fleet.until(
            lambda workers: (
                any(
                    shard.state == SHARD_STATE_RELEASING or shard.shard not in _active(workers)
                    for worker in workers.values()
                    for shard in worker.report.shards
                )
                or "four" in _active(workers).values()
            )
        )
    elif stage == "acquired":
        await fleet.until(lambda workers: "four" in _active(workers).values())
    await leader.kill()
    await joining

    # then each shard has one owner in the end, and none has moved but to the one that joined, under the next epoch.
    after = await fleet.settled(*WORKERS, "four")
    assert len(after) == SHARDS
    moved = {shard for shard in after if after[shard] != before[shard]}
    assert {after[shard][0] for shard in moved} == {"four"}
    assert len(moved) == SHARDS // 4
    assert all(after[shard][2] == before[shard][2] + 1 for shard in moved)


def _active(workers: dict[str, WorkerStatus]) -> dict[int, str]:
    return {
        shard.shard: name
        for name, worker in workers.items()
        for shard in worker.report.shards
        if shard.state == SHARD_STATE_ACTIVE
    }
