"""`B=sessions`: what the runtime adds to model and tools for many streaming sessions, and what idle ones take."""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.fleet_processes import fleet_processes
from support.fleets import agent, model, tool
from support.rabbitmq import Node
from support.redis_server import running as redis

from bench.contender import ROOT, answer, ours
from bench.rows import Row, alone
from troupe.llm_sim import process as llm_sim
from troupe.llm_sim.settings import LlmSimSettings
from troupe.v1.resource_pb2 import AgentSpec, PythonTool, Resource, ToolSpec

SESSIONS, TURNS = 200, 5
IDLE = 10_000
TTFT, PER_TOKEN = 0.1, 0.05
"""Seconds."""
MEDIAN, P99, MEGABYTES = 5.0, 25.0, 150.0
SHARDS = 128
MODEL = {
    "listen": "127.0.0.1:0",
    "metrics_listen": "",
    "ttft": f"constant:{TTFT}",
    "per_token": f"constant:{PER_TOKEN}",
    "seed": 0,
}

INCLUDES = f"""\
Included: {SESSIONS} clients that stream answers at the same time, {TURNS} conversations each, from one process; a
worker on RabbitMQ and Redis, which writes every commit to disk; the simulator as the model ({1e3 * TTFT:.0f} ms to the
first token, {1 / PER_TOKEN:.0f} tokens/s), called twice in each turn, with a tool call of 50 ms between. What is added
is the time from the call to the stream's end less what the same turn takes at best: the two answers and the tool, as
they are set. Client, worker, model and servers share this machine, so the lateness of client and model is in it. Memory
is the resident set of a worker's runtime with its state in Redis: {IDLE:,} sessions that had one message each.
Not included: other frameworks, networks, TLS."""


def measure(rounds: int, _seconds: float) -> Iterator[list[Row]]:
    """All rows, as each part is done. How much is measured does not depend on the seconds asked for."""
    node = Node()
    try:
        node.start()
        told = [asyncio.run(_conversations(node)) for _ in range(rounds)]
    finally:
        node.close()
    title = f"{SESSIONS} sessions"
    yield [
        alone(
            f"{title}, added, median",
            "ms",
            [statistics.median(_added(one)) for one in told],
            goal=MEDIAN,
            better="lower",
        ),
        alone(f"{title}, added, p99", "ms", [_p99(_added(one)) for one in told], goal=P99, better="lower"),
        # Its tool call streams eleven tokens, so that the turn takes 1.1 s at best.
        alone(f"{title}, end to end, mean", "ms", [1e3 * statistics.mean(one["took"]) for one in told], better="lower"),
    ]
    yield [alone(f"{IDLE:,} idle sessions", "MB", [_idle() for _ in range(rounds)], goal=MEGABYTES, better="lower")]


def _added(told: dict[str, list[float]]) -> list[float]:
    """Milliseconds of each conversation beyond what model and tool take: both answers' first tokens, and what follows
    them."""
    best = [2 * TTFT + (tokens - 2) * PER_TOKEN + 0.05 for tokens in told["tokens"]]
    return [1e3 * (took - least) for took, least in zip(told["took"], best, strict=True)]


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


async def _conversations(node: Node) -> dict[str, list[float]]:
    vhost = node.vhost()
    # Beside the results: a temporary directory may be in memory, where fsync costs nothing.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1]) as place, redis(Path(place)) as server:
        try:
            async with (
                llm_sim.running(LlmSimSettings.load(MODEL)) as simulator,
                fleet_processes(Path(place), vhost, server.url(), SHARDS) as fleet,
            ):
                await fleet.control_plane()
                worker = await fleet.worker("worker-0", python_path=ROOT, llm=simulator.url, model="sim")
                await fleet.apply(_resources())
                await fleet.settled("worker-0")
                warm_up = ours("bench.sessions.clients", worker.address, str(SESSIONS), "1")
                await asyncio.to_thread(answer, "clients", warm_up)
                talk = ours("bench.sessions.clients", worker.address, str(SESSIONS), str(TURNS))
                told: dict[str, list[float]] = await asyncio.to_thread(answer, "clients", talk)
        finally:
            node.drop_vhost(vhost)
    print(f"{SESSIONS} sessions: {statistics.median(_added(told)):.1f} ms added", file=sys.stderr, flush=True)
    return told


def _resources() -> list[Resource]:
    clerk = AgentSpec(model="default", system_prompt="You are a clerk.", tools=["look-up"])
    look_up = ToolSpec(python=PythonTool(entry_point="bench.sessions.tools:look_up"))
    return [agent("clerk", clerk), model("default"), tool("look-up", look_up)]


def _idle() -> float:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1]) as place, redis(Path(place)) as server:
        said = answer("idle sessions", ours("bench.sessions.idle", server.url(), str(IDLE)))
    return float(said["megabytes"])
