"""The two fleets that the storm befalls: workers, control planes, RabbitMQ and Redis as processes of their own, and
`troupe up`, which is all of it in one process on SQLite files."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fault.chaos import recorder, schedule
from fault.chaos.killer import Gate, Killer
from fault.chaos.operations import ACTOR, BATCHES
from fault.chaos.victims import Begin, LinesVictim, ProcessEnded, ProcessVictim, ServerVictim, Started, Victim
from support import proxy, rabbitmq, redis_server
from support.fleet_processes import FleetProcesses, fleet_processes, free_address
from support.fleets import actor, tool
from support.up import Up

from troupe.chassis import fault_points
from troupe.v1.resource_pb2 import ActorSpec, PythonTool, ToolSpec

START_TIMEOUT: Final = 60.0
WORKERS: Final = ("w0", "w1", "w2")
CONTROL_PLANES: Final = ("cp0", "cp1")
SHARDS: Final = 24
RESOURCES: Final = [
    tool("call", ToolSpec(python=PythonTool(entry_point="fault.chaos.actor:call"), idempotent=True)),
    tool("charge", ToolSpec(python=PythonTool(entry_point="fault.chaos.actor:charge"))),
    tool(
        "book", ToolSpec(python=PythonTool(entry_point="fault.chaos.actor:book"), idempotent=True, compensation="undo")
    ),
    tool("undo", ToolSpec(python=PythonTool(entry_point="fault.chaos.actor:undo"), idempotent=True)),
    actor(ACTOR, ActorSpec(entry_point="fault.chaos.actor:Tally", tools=["call", "charge", "book"])),
    actor(BATCHES, ActorSpec(entry_point="fault.chaos.actor:Heap")),
]
MANIFESTS: Final = f"""\
apiVersion: troupe.dev/v1
kind: Tool
metadata: {{name: call}}
spec: {{python: {{entryPoint: "fault.chaos.actor:call"}}, idempotent: true}}
---
apiVersion: troupe.dev/v1
kind: Tool
metadata: {{name: charge}}
spec: {{python: {{entryPoint: "fault.chaos.actor:charge"}}}}
---
apiVersion: troupe.dev/v1
kind: Tool
metadata: {{name: book}}
spec: {{python: {{entryPoint: "fault.chaos.actor:book"}}, idempotent: true, compensation: undo}}
---
apiVersion: troupe.dev/v1
kind: Tool
metadata: {{name: undo}}
spec: {{python: {{entryPoint: "fault.chaos.actor:undo"}}, idempotent: true}}
---
apiVersion: troupe.dev/v1
kind: Actor
metadata: {{name: {ACTOR}}}
spec: {{entryPoint: "fault.chaos.actor:Tally", tools: [call, charge, book]}}
---
apiVersion: troupe.dev/v1
kind: Actor
metadata: {{name: {BATCHES}}}
spec: {{entryPoint: "fault.chaos.actor:Heap"}}
"""


@dataclass
class Stormed:
    """A fleet that serves. `torments` are to run side by side until cancelled."""

    gateways: list[str]
    victims: list[Victim]
    servers: dict[str, Victim] = field(default_factory=dict)

    async def torment(self, killer: Killer, seed: int, gate: Gate) -> None:
        """Let the schedule of this seed befall it, until cancelled. No server is killed before the gate is open."""
        async with asyncio.TaskGroup() as tasks:
            for victim in self.victims:
                tasks.create_task(killer.torment(victim, _faults(victim, seed)))
            if self.servers:
                tasks.create_task(killer.torment_in_turn(self.servers, schedule.servers(seed), gate))

    async def heal(self) -> None:
        """Everything runs and passes."""
        for victim in (*self.victims, *self.servers.values()):
            await victim.heal()


def _faults(victim: Victim, seed: int) -> Iterator[schedule.Fault]:
    match victim.group:
        case "worker":
            return schedule.worker(seed, victim.name)
        case "control plane":
            return schedule.control_plane(seed, victim.name)
        case "lines":
            return schedule.lines(seed, victim.name)
        case _:
            return schedule.one_process(seed)


@asynccontextmanager
async def of_servers(directory: Path, seed: int) -> AsyncIterator[Stormed]:
    """Two control planes on one store and three workers, each on lines of its own, on a RabbitMQ and a Redis with
    every write on disk."""
    async with AsyncExitStack() as stack:
        node = stack.enter_context(rabbitmq.running())
        store = stack.enter_context(redis_server.running(directory))
        called = await stack.enter_async_context(recorder.recording(directory / "recorded.jsonl"))
        fleet = await stack.enter_async_context(fleet_processes(directory, node.url, store.url(), SHARDS))
        environment = {recorder.ADDRESS: called}
        victims: list[Victim] = []
        for name in CONTROL_PLANES:
            planes = ProcessVictim(name, "control plane", _control_plane(fleet, free_address()), _unarmed())
            await planes.start()
            victims.append(planes)
        for name in WORKERS:
            lines, begin = await _worker(stack, fleet, name, environment)
            worker = ProcessVictim(name, "worker", begin, schedule.points(seed, name))
            victims += [worker, LinesVictim(f"lines of {name}", lines)]
        workers = [victim for victim in victims if isinstance(victim, ProcessVictim) and victim.group == "worker"]
        await asyncio.gather(*(worker.start() for worker in workers))
        await fleet.apply(RESOURCES)
        servers: dict[str, Victim] = {
            "RabbitMQ": ServerVictim("RabbitMQ", node.kill, node.start, node.freeze, node.thaw),
            "Redis": ServerVictim("Redis", store.kill, store.start, store.pause, store.resume),
        }
        yield Stormed([_address(fleet, name) for name in WORKERS], victims, servers)


@asynccontextmanager
async def in_one_process(directory: Path, seed: int) -> AsyncIterator[Stormed]:
    """`troupe up`."""
    manifests = directory / "manifests"
    manifests.mkdir()
    (manifests / "tally.yaml").write_text(MANIFESTS)
    address = free_address()
    async with recorder.recording(directory / "recorded.jsonl") as called:
        up = Up(
            directory,
            {
                recorder.ADDRESS: called,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "TROUPE_LISTEN": address,
                "TROUPE_ORDER_TIMEOUT": "3",
            },
            manifests,
            START_TIMEOUT,
        )

        async def begin(armed: str) -> Started:
            up.environment = {**up.environment, fault_points.VARIABLE: armed}
            try:
                await up.start()
            except (AssertionError, TimeoutError) as error:
                await up.kill()
                raise ProcessEnded("up", None if up.process is None else up.process.returncode, str(error)) from error
            assert up.process is not None
            return Started(up.process, up.log)

        victim = ProcessVictim("up", "troupe up", begin, schedule.points(seed, "up"))
        await victim.start()
        try:
            yield Stormed([address], [victim])
        finally:
            if up.process is not None and up.process.returncode is None:
                await up.kill()


def _control_plane(fleet: FleetProcesses, address: str) -> Begin:
    async def begin(_: str) -> Started:
        process = await fleet.control_plane(address, workers=len(WORKERS))
        return Started(process.running, process.log)

    return begin


async def _worker(
    stack: AsyncExitStack, fleet: FleetProcesses, name: str, environment: dict[str, str]
) -> tuple[dict[str, proxy.Proxy], Begin]:
    address = free_address()
    to, from_, broker, store = [
        await stack.enter_async_context(proxy.before(url))
        for url in (f"tcp://{fleet.servers[0]}", f"tcp://{address}", fleet.broker, fleet.state)
    ]
    lines = dict(zip(schedule.LINES, (to, from_, broker, store), strict=True))

    async def begin(armed: str) -> Started:
        try:
            process = await fleet.worker(
                name,
                address,
                {**environment, fault_points.VARIABLE: armed},
                server=",".join((f"127.0.0.1:{to.listens}", *fleet.servers[1:])),
                advertise=f"127.0.0.1:{from_.listens}",
                broker=f"{broker.url(fleet.broker)}?heartbeat=2",
                state=store.url(fleet.state),
                order_timeout=3,
            )
        except AssertionError as error:
            ended = next(one for one in reversed(fleet.processes) if one.name == name)
            raise ProcessEnded(name, ended.running.returncode, str(error)) from error
        return Started(process.running, process.log)

    return lines, begin


def _address(fleet: FleetProcesses, name: str) -> str:
    return next(process.address for process in fleet.processes if process.name == name)


def _unarmed() -> Iterator[str]:
    while True:
        yield ""
