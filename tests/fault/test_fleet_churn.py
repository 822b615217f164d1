"""Ten workers join and leave in a random order, each in one of the ways in which workers leave, under a control plane
that places the shards, while several senders write to many sessions. How long sessions had to wait is printed."""

import asyncio
import itertools
import random
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import redis_server
from support.fleet_processes import FleetProcesses, Process, applied, end, fleet_processes, send
from support.fleets import actor
from support.recording_actor import STARTS, Operation
from support.senders import Senders

from troupe.broker.addressing import SessionKey
from troupe.chassis.ids import uuid7
from troupe.v1 import turn_pb2
from troupe.v1.control_plane_pb2 import WorkerStatus
from troupe.v1.resource_pb2 import ActorSpec
from troupe.v1.status_pb2 import SHARD_STATE_ACTIVE, HealthState

SHARDS, SESSIONS, SENDERS, EACH = 16, 10, 5, 30
WORKERS = [f"w{number}" for number in range(10)]
LEAST, MOST = 2, 5
"""Of the ten, at one time, but for the beginning and the end."""
WAYS = ("told to stop", "drained", "killed")
RECORDER = actor("recorder", ActorSpec(entry_point="support.recording_actor:Recorder"))


@dataclass(frozen=True, slots=True)
class Change:
    """Some workers came or went at once, and it took until `over` before all shards were at work again; these have
    moved."""

    what: tuple[str, ...]
    began: float
    over: float
    moved: frozenset[int]


class Churn:
    """Brings ten workers into the fleet and out of it again. `stays` is an eleventh, which has everything."""

    def __init__(self, fleet: FleetProcesses, stays: Process, dice: random.Random) -> None:
        self._fleet, self._stays, self._dice = fleet, stays, dice
        self._coming = dice.sample(WORKERS, len(WORKERS))
        ways = [way for way, _ in zip(itertools.cycle(WAYS), WORKERS, strict=False)]
        self._ways = dict(zip(WORKERS, dice.sample(ways, len(ways)), strict=True))
        self._there: dict[str, Process] = {}
        self._processes = {"stays": stays}
        self._owners: dict[int, tuple[str, int]] = {}
        self.changes: list[Change] = []
        self.given_up: list[tuple[Process, int, int]] = []
        """Owner, shard and epoch, of each shard that left a process which was not killed."""

    def gateway(self) -> Process:
        """Any process that is there."""
        return self._dice.choice([self._stays, *self._there.values()])

    async def run(self) -> None:
        """Until all have come and gone."""
        self._owners = _owners(await self._fleet.until(self._all_at_work))
        await self._change(self._joining(LEAST))
        while self._coming or self._there:
            await self._change(self._next())
            await asyncio.sleep(self._dice.uniform(0.0, 0.5))

    def _next(self) -> list[Any]:
        count = self._dice.choice((1, 2, 2))
        if self._coming and (len(self._there) <= LEAST or (len(self._there) < MOST and self._dice.random() < 0.5)):
            return self._joining(count)
        leaving = self._dice.sample(sorted(self._there), min(count, len(self._there)))
        return [self._leave(name, self._there.pop(name)) for name in leaving]

    def _joining(self, count: int) -> list[Any]:
        coming, self._coming = self._coming[:count], self._coming[count:]
        return [self._join(name) for name in coming]

    async def _change(self, steps: list[Any]) -> None:
        began = time.monotonic()
        what = await asyncio.gather(*steps)
        before, self._owners = self._owners, _owners(await self._fleet.until(self._all_at_work))
        moved = {shard: owner for shard, owner in before.items() if self._owners[shard] != owner}
        self.changes.append(Change(tuple(what), began, time.monotonic(), frozenset(moved)))
        for shard, (name, epoch) in moved.items():
            if self._ways.get(name) != "killed" or name in self._there:
                self.given_up.append((self._processes[name], shard, epoch))

    async def _join(self, name: str) -> str:
        self._there[name] = self._processes[name] = await self._fleet.worker(name)
        return "joined"

    async def _leave(self, name: str, process: Process) -> str:
        way = self._ways[name]
        match way:
            case "told to stop":
                process.signal(signal.SIGTERM)
            case "drained":
                await self._fleet.drain(name)
            case _:
                await process.kill()
        status = await process.ended()
        assert status == (-signal.SIGKILL if way == "killed" else 0), f"{name}, {way}: {process.said()[-3000:]}"
        return way

    def _all_at_work(self, workers: dict[str, WorkerStatus]) -> bool:
        """Each shard is with one of those that are there, and each of those has some."""
        owners = _owners(workers)
        count = sum(len(_active(worker)) for worker in workers.values())
        return len(owners) == count == SHARDS and self._there.keys() <= {name for name, _ in owners.values()}


def _owners(workers: dict[str, WorkerStatus]) -> dict[int, tuple[str, int]]:
    """The worker and the epoch of each shard."""
    return {shard: (name, epoch) for name, worker in workers.items() for shard, epoch in _active(worker)}


def _active(worker: WorkerStatus) -> list[tuple[int, int]]:
    """Shards and epochs by its last report, if it was not lost since."""
    if worker.report.health.state == HealthState.HEALTH_STATE_LOST:
        return []
    return [(shard.shard, shard.epoch) for shard in worker.report.shards if shard.state == SHARD_STATE_ACTIVE]


class Probes:
    """One session in each shard gets a message every so often. How long each took is how long the session waited."""

    def __init__(self, gateway: Process) -> None:
        self._gateway = gateway
        self._sessions = [_session_in(shard) for shard in range(SHARDS)]
        self._counts = dict.fromkeys(self._sessions, 0)
        self._stop = asyncio.Event()
        self.waits: list[tuple[int, float, float]] = []
        """Shard, when it was sent, and how many seconds it took, of each message."""

    async def run(self) -> None:
        """Until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            for shard, session in enumerate(self._sessions):
                tasks.create_task(self._probe(shard, session))

    def stop(self) -> None:
        self._stop.set()

    async def check(self) -> None:
        """Each has taken effect, once, in its order."""
        for session, count in self._counts.items():
            found = (await applied(self._gateway, session)).operations
            assert found == [(session, number + 1) for number in range(count)]

    async def _probe(self, shard: int, session: str) -> None:
        while not self._stop.is_set():
            self._counts[session] += 1
            began = time.monotonic()
            message_id = await send(self._gateway, session, Operation(session, self._counts[session]))
            assert (await end(self._gateway, session, message_id)).fate == turn_pb2.FATE_DONE
            self.waits.append((shard, began, time.monotonic() - began))
            await asyncio.sleep(0.25)


def _session_in(shard: int) -> str:
    names = (f"probe{number}" for number in itertools.count())
    return next(name for name in names if SessionKey("default", "default", "recorder", name).shard(SHARDS) == shard)


def summary(waits: list[tuple[int, float, float]], changes: list[Change]) -> str:
    """The longest wait for each shard that moved, in changes with every worker alive, and in those with one killed."""
    longest: dict[str, list[float]] = {"all alive": [], "one killed": []}
    for change in changes:
        met = {
            shard: [
                took
                for each, sent, took in waits
                if each == shard and sent < change.over and change.began < sent + took
            ]
            for shard in change.moved
        }
        longest["one killed" if "killed" in change.what else "all alive"] += [
            max(each) for each in met.values() if each
        ]
    return "; ".join(
        f"{kind}: {len(each)} moves, longest wait of a session of each p50 {_quantile(each, 0.5):.3f} s, "
        f"p99 {_quantile(each, 0.99):.3f} s, most {_quantile(each, 1.0):.3f} s"
        for kind, each in longest.items()
    )


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_ten_workers_come_and_go(
    tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(
            fleet_processes(tmp_path, amqp_url, redis_server.shared().url(uuid7()), SHARDS)
        )
        # Given one worker that has everything, and a control plane
        await fleet.control_plane(lease=10)
        stays = await fleet.worker("stays")
        await fleet.apply([RECORDER])
        await fleet.settled("stays")
        churn, probes = Churn(fleet, stays, dice), Probes(stays)
        senders = Senders(churn.gateway, dice, sessions=SESSIONS, each=EACH, pause=2.0)
        # When senders write while ten others come and go
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(probes.run())
            for sender in range(SENDERS):
                tasks.create_task(senders.write(f"c{sender}"))
            await churn.run()
            probes.stop()
        sys.stdout.write(f"\n{summary(probes.waits, churn.changes)}\n")
        # Then every message that was confirmed has its one effect, in its order
        await senders.check(stays)
        await probes.check()
        # And each shard was handed over by its owner, unless that was killed: nobody's write had to be refused
        assert len(churn.given_up) > SHARDS
        for process, shard, epoch in churn.given_up:
            handed_over = {(line["shard"], line["epoch"]): line["how"] for line in process.events("shard handed over")}
            assert handed_over.get((shard, epoch)) == "finished", f"{process.name}: {shard} in epoch {epoch}"
        assert not [process.name for process in fleet.processes if process.events("shard lost to another owner")]
        assert {step for change in churn.changes for step in change.what} == {"joined", *WAYS}
