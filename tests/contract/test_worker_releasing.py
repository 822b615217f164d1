"""A worker says that a shard is released once it has handed it over, and of which placement it says so."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support import scripted_actor
from support.fleets import actor
from support.hosting import until
from support.worker_fleet import WorkerFleet, worker_fleet

from troupe.broker.addressing import SessionKey
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec
from troupe.v1.status_pb2 import ShardState, StatusReport

COUNTER = actor("counter", ActorSpec(entry_point="support.scripted_actor:Counter"))
SHARD = SessionKey("default", "default", "counter", "s").shard(4)


def position(report: StatusReport) -> tuple[int, int]:
    return report.placement.term, report.placement.version


async def held_up(fleet: WorkerFleet, call: str) -> tuple[asyncio.Event, asyncio.Event]:
    """The store holds up this call of the worker: set once it does, and what lets it go on."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hook(*_: Any) -> None:
        entered.set()
        await go_on.wait()

    fleet.members["a"].store.before[call] = hook
    return entered, go_on


async def test_a_shard_is_not_released_before_what_it_has_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted_actor, "OPEN", asyncio.Event())
    async with worker_fleet(tmp_path, "a", "b", resources=[COUNTER]) as fleet:
        a, b = fleet.members["a"], fleet.members["b"]
        # Given a turn that runs, and a store that takes its time
        request = SendRequest(session=SessionRef(agent="counter", session="s"), content=Content(text="wait"))
        await a.agents.Send(request)
        while (await a.worker.report()).load.running_turns != 1:  # noqa: ASYNC110 - another side of a socket tells
            await asyncio.sleep(0.01)
        entered, go_on = await held_up(fleet, "put")
        before = position(await a.worker.report())
        # When its shard is revoked
        await fleet.place({SHARD: a}, revoked=[SHARD])
        async with asyncio.timeout(10):
            await entered.wait()
        # Then it knows of that, and has not released it
        report = await a.worker.report()
        assert position(report) > before
        (shard,) = [shard for shard in report.shards if shard.shard == SHARD]
        assert shard.state == ShardState.SHARD_STATE_RELEASING
        # until all is written down
        go_on.set()
        async with asyncio.timeout(10):
            while SHARD in {one.shard for one in (await a.worker.report()).shards}:  # noqa: ASYNC110 - a server tells
                await asyncio.sleep(0.01)
        # The turn goes on meanwhile, and its end is kept
        await fleet.place({SHARD: b}, live=[a, b])
        assert (await a.worker.report()).load.running_turns == 1
        scripted_actor.OPEN.set()
        await until(lambda: a.store.calls["commit"])


async def test_the_report_does_not_run_ahead_of_what_is_held(tmp_path: Path) -> None:
    """Given a worker that has heard of a placement and has not obeyed it yet, its report is of the one before."""
    async with worker_fleet(tmp_path, "a", "b", resources=[COUNTER]) as fleet:
        a, b = fleet.members["a"], fleet.members["b"]
        await fleet.give_all(b)
        entered, go_on = await held_up(fleet, "claim")
        # When a shard goes to the worker, whose claim is held up, and is revoked at once
        given = asyncio.create_task(fleet.place({SHARD: a}, tell=[a]))
        async with asyncio.timeout(10):
            await entered.wait()
        revoked = asyncio.create_task(fleet.place({SHARD: a}, tell=[a], revoked=[SHARD]))
        # Then it is never said to be released before the claim has come to its end
        for _ in range(20):
            report = await a.worker.report()
            assert position(report) < (1, 4) or SHARD in {shard.shard for shard in report.shards}
            await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(given, revoked)
        async with asyncio.timeout(10):
            while (report := await a.worker.report()).shards:  # noqa: ASYNC110 - a server tells
                await asyncio.sleep(0.01)
        assert position(report) == (1, 4)
