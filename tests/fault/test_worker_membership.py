"""Workers come, leave, are replaced and lose their control plane while messages flow: real processes on a real RabbitMQ
and Redis."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import rabbitmq, redis_server
from support.fleet_processes import FleetProcesses, applied, end, fleet_processes, send
from support.fleets import actor
from support.recording_actor import STARTS, Operation
from support.writers import Writers

from troupe.broker.addressing import SessionKey
from troupe.chassis.ids import uuid7
from troupe.v1 import turn_pb2
from troupe.v1.resource_pb2 import ActorSpec
from troupe.v1.status_pb2 import HealthState

pytestmark = pytest.mark.timeout(240)

SHARDS = 16
RECORDER = actor("recorder", ActorSpec(entry_point="support.recording_actor:Recorder"))


@pytest.fixture
async def fleet(
    tmp_path: Path, node: rabbitmq.Node, store: redis_server.RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FleetProcesses]:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    broker = node.vhost()
    async with fleet_processes(tmp_path, broker, store.url(uuid7()), SHARDS) as fleet:
        yield fleet
    node.drop_vhost(broker)


async def test_workers_serve_on_without_any_control_plane_and_nothing_moves_when_it_is_back(
    fleet: FleetProcesses,
) -> None:
    control_plane = await fleet.control_plane(workers=2)
    workers = [await fleet.worker("w0"), await fleet.worker("w1")]
    await fleet.apply([RECORDER])
    before = await fleet.settled("w0", "w1")
    async with Writers(workers).writing() as writers:
        await writers.more(2)
        # When the control plane is killed, for longer than a lease
        await control_plane.kill()
        await asyncio.sleep(6)
        await writers.more(10)
        # and is back
        await fleet.control_plane(control_plane.address, workers=2)
        after = await fleet.settled("w0", "w1")
        await asyncio.sleep(5)  # another lease
        assert await fleet.held() == before == after, "nothing moved"
        await writers.more(2)
    assert all(worker.runs for worker in workers)
    await writers.check(workers[0])


async def test_a_worker_that_is_told_to_stop_hands_over_all_it_has_while_messages_flow(fleet: FleetProcesses) -> None:
    await fleet.control_plane(workers=2)
    stays = await fleet.worker("w0", label="troupe.dev/weight=1")
    leaves = await fleet.worker("w1", label="troupe.dev/weight=3")
    await fleet.apply([RECORDER])
    await fleet.until(
        lambda workers: {name: len(worker.report.shards) for name, worker in workers.items()} == {"w0": 4, "w1": 12}
    )
    async with Writers([stays]).writing() as writers:
        await writers.more(3)
        # Given a turn that takes a while
        long = await send(stays, "long", Operation("long", 1, seconds=4.0))
        # When a third one comes and the second is told to stop
        late = await fleet.worker("w2", label="troupe.dev/weight=1")
        leaves.signal(signal.SIGTERM)
        assert await leaves.ended(within=30) == 0
        held = await fleet.settled("w0", "w2")
        assert {worker for worker, _, _ in held.values()} == {"w0", "w2"}
        await writers.more(3)
        # and another one is drained
        await fleet.drain("w2")
        assert await late.ended(within=30) == 0
        await writers.more(3)
    for step in ("draining", "shards handed over", "all turns have ended", "stopped"):
        assert leaves.said().count(f'"event": "{step}"') == 1
    assert "letting go of them" not in leaves.said() + late.said()
    assert (await end(stays, "long", long)).fate == turn_pb2.FATE_DONE
    await writers.check(stays)


async def test_a_worker_leaves_though_there_is_no_control_plane(fleet: FleetProcesses) -> None:
    control_plane = await fleet.control_plane(workers=2)
    stays, leaves = await fleet.worker("w0"), await fleet.worker("w1", drain_patience=1)
    await fleet.apply([RECORDER])
    await fleet.settled("w0", "w1")
    async with Writers([stays]).writing() as writers:
        await writers.more(3)
        # Given no control plane, when a worker is told to stop
        await control_plane.kill()
        leaves.signal(signal.SIGTERM)
        # Then it lets go of its shards by itself
        assert await leaves.ended(within=20) == 0
        assert leaves.said().count("letting go of them") == 1
        # and what is sent to them waits, until a control plane is back
        await writers.more(3)
        await fleet.control_plane(control_plane.address, workers=2)
        held = await fleet.settled("w0")
        assert {worker for worker, _, _ in held.values()} == {"w0"}
    await writers.check(stays)


async def test_the_newer_of_two_processes_with_one_name_has_the_shards(fleet: FleetProcesses) -> None:
    await fleet.control_plane(workers=2)
    w0, older = await fleet.worker("w0"), await fleet.worker("w1")
    await fleet.apply([RECORDER])
    before = await fleet.settled("w0", "w1")
    theirs = next(name for name in map("long{}".format, range(1000)) if before[shard_of(name)][0] == "w1")
    async with Writers([w0]).writing() as writers:
        await writers.more(3)
        # Given a turn of its own that takes longer than all that follows
        long = await send(w0, theirs, Operation("long", 1, seconds=5.0))
        # When a second process of that name starts
        newer = await fleet.worker("w1")
        # Then the first one ends, and says in one line why
        assert await older.ended(within=30) == 1
        complaint = [line for line in older.said().splitlines() if line.startswith("error: ")]
        assert len(complaint) == 1
        assert "another process has registered as w1 since" in complaint[0]
        after = await fleet.settled("w0", "w1")
        await writers.more(3)
    # and the second has its shards, under newer epochs
    assert newer.runs
    for shard, (worker, instance, epoch) in before.items():
        assert after[shard][0] == worker
        if worker == "w1":
            assert after[shard][1] != instance
            assert after[shard][2] > epoch
        else:
            assert after[shard] == (worker, instance, epoch)
    await writers.check(w0)
    # and what the first one was at work on has happened once
    assert (await end(w0, theirs, long)).fate == turn_pb2.FATE_DONE
    assert (await applied(w0, theirs)).operations == [("long", 1)]


async def test_a_second_signal_ends_a_worker_at_once(fleet: FleetProcesses) -> None:
    await fleet.control_plane()
    worker = await fleet.worker("w0")
    await fleet.apply([RECORDER])
    await fleet.settled("w0")
    long = await send(worker, "s", Operation("c", 1, seconds=8.0))
    worker.signal(signal.SIGTERM)
    await fleet.until(
        lambda workers: (
            workers["w0"].report.health.state == HealthState.HEALTH_STATE_DRAINING
            and workers["w0"].report.load.running_turns == 1
        )
    )
    worker.signal(signal.SIGTERM)
    assert await worker.ended(within=5) == 130
    # What it was at work on is taken up by its next process
    again = await fleet.worker("w0")
    assert (await end(again, "s", long)).fate == turn_pb2.FATE_DONE


async def test_workers_and_commands_follow_the_leader(fleet: FleetProcesses) -> None:
    # Given a leader and one that stands by, and workers that know of both
    leader, standby = await fleet.control_plane(workers=2), await fleet.control_plane(workers=2)
    workers = [await fleet.worker("w0"), await fleet.worker("w1", server=standby.address)]
    await fleet.apply([RECORDER])
    before = await fleet.settled("w0", "w1")
    # When the leader is killed
    await leader.kill()
    async with Writers(workers).writing() as writers:
        # Then the other one leads, a command that names both reaches it, and nothing has moved
        assert await _troupe(fleet, "status", "--server", f"{leader.address},{standby.address}") == 0
        await fleet.apply([RECORDER, actor("other", ActorSpec(entry_point="support.recording_actor:Recorder"))])
        assert await fleet.settled("w0", "w1") == before
        await writers.more(3)
        # And back again: the first one stands by now, and takes over
        again = await fleet.control_plane(leader.address, workers=2)
        standby.signal(signal.SIGTERM)
        assert await standby.ended() == 0
        assert await fleet.settled("w0", "w1") == before
        await writers.more(3)
    assert again.runs
    await writers.check(workers[1])


def shard_of(session: str) -> int:
    return SessionKey("default", "default", "recorder", session).shard(SHARDS)


async def _troupe(fleet: FleetProcesses, *words: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "troupe.cli.main", *words),
        env={**os.environ, "TROUPE_DATA": str(fleet.directory)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        return await process.wait()
