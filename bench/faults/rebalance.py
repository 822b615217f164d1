"""`B=rebalance`: how long sessions wait whose shard moves to another worker, and whether the others wait at all."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support import proxy, rabbitmq, redis_server
from support.fleet_processes import FleetProcesses, Held, fleet_processes
from support.fleets import actor

from bench.faults.busy import Busy, Session, busy, percentile
from bench.rows import Row, alone, compared
from troupe.broker.addressing import SessionKey
from troupe.v1.resource_pb2 import ActorSpec

AGENT = "counter"
COUNTER = actor(AGENT, ActorSpec(entry_point="support.scripted_actor:Counter"))
SHARDS, SESSIONS = 48, 60
PAUSE = 0.1
"""Seconds between two turns of a session."""
CALM = 3.0
"""Seconds for which nothing moves, before each move."""
STAYING, JOINING = ("w0", "w1"), "w2"

INCLUDES = f"""\
Included: a control plane on SQLite, workers as processes on one RabbitMQ and one Redis with every write on disk, and
{SESSIONS} sessions of {SHARDS} shards that each ask again {PAUSE:g} s after they were answered. In each round a third
worker joins, which takes a third of the shards, and leaves again in good order: two moves. A session waits for as long
as the longest of its turns takes that are under way from when the move begins until all workers report what they hold.
The process of the worker that joins is up before: it registers when the move begins."""


@dataclass
class Waits:
    """Seconds, one for each round: the 99th of 100 sessions."""

    moving: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    calm: list[float] = field(default_factory=list)


def measure(rounds: int, _seconds: float) -> Iterator[list[Row]]:
    """All rows. How much is measured does not depend on the seconds asked for."""
    waits = asyncio.run(_measured(rounds))
    yield [
        alone(
            "sessions whose shard moves wait, p99",
            "ms",
            [1e3 * each for each in waits.moving],
            goal=2_000,
            better="lower",
        ),
        compared(
            "all others wait, p99",
            "ms",
            [1e3 * each for each in waits.others],
            [1e3 * each for each in waits.calm],
            "nothing moves",
            goal=1.5,
            better="lower",
        ),
    ]


async def _measured(rounds: int) -> Waits:
    waits = Waits()
    with tempfile.TemporaryDirectory() as directory:
        async with _fleet(Path(directory)) as fleet:
            gateways = [process.address for process in fleet.processes if process.name in STAYING]
            async with busy(gateways, AGENT, SESSIONS, "one more", PAUSE) as sessions:
                for _ in range(rounds):
                    await _joins_and_leaves(fleet, sessions, waits)
    return waits


@asynccontextmanager
async def _fleet(directory: Path) -> AsyncIterator[FleetProcesses]:
    with rabbitmq.running() as node, redis_server.running(directory) as store:
        async with fleet_processes(directory, node.url, store.url(), SHARDS) as fleet:
            await fleet.control_plane(workers=len(STAYING))
            for name in STAYING:
                await fleet.worker(name)
            await fleet.apply([COUNTER])
            await fleet.settled(*STAYING)
            yield fleet


async def _joins_and_leaves(fleet: FleetProcesses, sessions: Busy, waits: Waits) -> None:
    async with proxy.before(f"tcp://{fleet.servers[0]}") as line:
        line.stall()
        joining = await fleet.worker(JOINING, server=f"127.0.0.1:{line.listens}")
        before = await fleet.held()
        calm = await _calm(sessions)
        began = time.monotonic()
        line.heal()
        held = await fleet.settled(*STAYING, JOINING)
        _note(sessions.sessions, waits, calm, began, _moved(before, held))
        calm = await _calm(sessions)
        began = time.monotonic()
        await fleet.drain(JOINING)
        left = await fleet.settled(*STAYING)
        _note(sessions.sessions, waits, calm, began, _moved(held, left))
        await joining.ended()


async def _calm(sessions: Busy) -> list[float]:
    """The longest turn of each session while nothing moves."""
    await asyncio.sleep(1.0)
    began = time.monotonic()
    await asyncio.sleep(CALM)
    return [session.longest(began, time.monotonic()) for session in sessions.sessions]


def _note(sessions: list[Session], waits: Waits, calm: list[float], began: float, moved: set[int]) -> None:
    now = time.monotonic()
    moving: list[float] = []
    others: list[float] = []
    for session in sessions:
        shard = SessionKey("default", "default", AGENT, session.name).shard(SHARDS)
        (moving if shard in moved else others).append(session.longest(began, now))
    waits.moving.append(percentile(moving, 0.99))
    waits.others.append(percentile(others, 0.99))
    waits.calm.append(percentile(calm, 0.99))


def _moved(before: Held, after: Held) -> set[int]:
    return {shard for shard, (worker, _, _) in after.items() if before[shard][0] != worker}
