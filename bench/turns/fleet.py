"""Ours, as a user runs it: `troupe up` on its SQLite files, and a control plane with workers on RabbitMQ and Redis."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from support.fleet_processes import fleet_processes
from support.fleets import actor, tool
from support.rabbitmq import Node
from support.redis_server import running as redis
from support.up import up

from bench.contender import ROOT
from troupe.v1.resource_pb2 import ActorSpec, PythonTool, ToolSpec

COUNTER, WITH_TOOL = "counter", "counter-with-tool"
"""The actors: one that counts, and one that calls a tool before."""
SHARDS = 128
_MODULE = "bench.actors.counter"
_MANIFEST = f"""\
apiVersion: troupe.dev/v1
kind: Tool
metadata:
  name: look-up
spec:
  python:
    entryPoint: {_MODULE}:look_up
---
apiVersion: troupe.dev/v1
kind: Actor
metadata:
  name: {COUNTER}
spec:
  entryPoint: {_MODULE}:Counter
---
apiVersion: troupe.dev/v1
kind: Actor
metadata:
  name: {WITH_TOOL}
spec:
  entryPoint: {_MODULE}:CounterWithTool
  tools: [look-up]
"""
_RESOURCES = [
    tool("look-up", ToolSpec(python=PythonTool(entry_point=f"{_MODULE}:look_up"))),
    actor(COUNTER, ActorSpec(entry_point=f"{_MODULE}:Counter")),
    actor(WITH_TOOL, ActorSpec(entry_point=f"{_MODULE}:CounterWithTool", tools=["look-up"])),
]


@contextlib.asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Sequence[str]]:
    """One process for everything; the worker's address."""
    manifests = directory / "manifests"
    manifests.mkdir()
    (manifests / "counter.yaml").write_text(_MANIFEST)
    async with up(directory, {"TROUPE_PYTHON_PATH": f'["{ROOT}"]'}, manifests) as fleet:
        yield [fleet.gateway]


@contextlib.asynccontextmanager
async def on_servers(directory: Path, node: Node, workers: int) -> AsyncIterator[Sequence[str]]:
    """So many workers, on a vhost of the node and a Redis of their own that writes every commit to its disk; their
    addresses."""
    vhost = node.vhost()
    try:
        with redis(directory) as server:
            async with fleet_processes(directory, vhost, server.url(), SHARDS) as fleet:
                await fleet.control_plane(workers=workers)
                started = [await fleet.worker(f"worker-{number}", python_path=ROOT) for number in range(workers)]
                await fleet.apply(_RESOURCES)
                await fleet.settled(*(worker.name for worker in started))
                yield [worker.address for worker in started]
    finally:
        node.drop_vhost(vhost)
