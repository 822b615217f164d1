"""`B=sessions`: what the runtime adds to model and tools for many streaming sessions, and what idle ones take."""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.fleet_processes import fleet_processes
from support.fleets import agent, model, tool
from support.rabbitmq import Node
from support.redis_server import running as redis

from bench.contender import ROOT, answer, ours
from bench.rows import Row, alone
from bench.sessions import model as simulator
from bench.sessions.tools import TAKES
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
first token, {1 / PER_TOKEN:.0f} tokens/s), called twice in each turn, with a tool call of {1e3 * TAKES:.0f} ms between.
What is added is the time from the call to the stream's end less that of model and tool: the model's is what it really
took, from a request's coming to the answer's last byte, and the tool's what is set. Client, worker, model and servers
share this machine, so what one waits for a processor is in it; how late the model was and the processor time of each
are shown apart. Memory is the resident set of a worker's runtime with its state in Redis: {IDLE:,} sessions that had
one message each.
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
        alone(f"{title}, added, median", "ms", [one.added(0.5) for one in told], goal=MEDIAN, better="lower"),
        alone(f"{title}, added, p99", "ms", [one.added(0.99) for one in told], goal=P99, better="lower"),
        alone(f"{title}, model late, median", "ms", [one.late(0.5) for one in told], better="lower"),
        # Its tool call streams eleven tokens, so that the turn takes 1.1 s at best.
        alone(f"{title}, end to end, mean", "ms", [one.mean() for one in told], better="lower"),
        *(
            alone(f"{title}, CPU of a turn, {name}", "ms", [one.cpu[name] for one in told], better="lower")
            for name in told[0].cpu
        ),
    ]
    yield [alone(f"{IDLE:,} idle sessions", "MB", [_idle() for _ in range(rounds)], goal=MEGABYTES, better="lower")]


@dataclass(frozen=True, slots=True)
class _Told:
    """What was measured of the conversations; in milliseconds."""

    conversations: list[tuple[float, int, float]]
    """Seconds, tokens, and the seconds of both of the model's answers."""
    cpu: Mapping[str, float]
    """Processor time of one turn, by process."""

    def added(self, share: float) -> float:
        """The time beyond that of model and tool, at this share of the conversations."""
        return 1e3 * _quantile([took - model - TAKES for took, _, model in self.conversations], share)

    def late(self, share: float) -> float:
        """The model's time beyond that of both answers' first tokens and of what follows them."""
        best = (2 * TTFT + (tokens - 2) * PER_TOKEN for _, tokens, _ in self.conversations)
        late = [model - least for (_, _, model), least in zip(self.conversations, best, strict=True)]
        return 1e3 * _quantile(late, share)

    def mean(self) -> float:
        return 1e3 * statistics.mean(took for took, _, _ in self.conversations)


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]


async def _conversations(node: Node) -> _Told:
    vhost = node.vhost()
    # Beside the results: a temporary directory may be in memory, where fsync costs nothing.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1]) as place, redis(Path(place)) as server:
        try:
            async with (
                simulator.serving(LlmSimSettings.load(MODEL)) as model_server,
                fleet_processes(Path(place), vhost, server.url(), SHARDS) as fleet,
            ):
                await fleet.control_plane()
                worker = await fleet.worker("worker-0", python_path=ROOT, llm=model_server.url, model="sim")
                await fleet.apply(_resources())
                await fleet.settled("worker-0")
                warm_up = ours("bench.sessions.clients", worker.address, str(SESSIONS), "1")
                await asyncio.to_thread(answer, "clients", warm_up)
                model_server.took.clear()
                pids = {"worker": worker.running.pid, "RabbitMQ": node.pid, "Redis": server.pid}
                before = {name: _cpu(pid) for name, pid in pids.items()} | {"model": time.process_time()}
                talk = ours("bench.sessions.clients", worker.address, str(SESSIONS), str(TURNS))
                said = await asyncio.to_thread(answer, "clients", talk)
                after = {name: _cpu(pid) for name, pid in pids.items()} | {"model": time.process_time()}
        finally:
            node.drop_vhost(vhost)
    turns = len(said["told"])
    spent = {name: after[name] - before[name] for name in before} | {"clients": said["cpu"]}
    told = _Told(
        [(took, tokens, model_server.took[name]) for name, (took, tokens) in said["told"].items()],
        {name: 1e3 * seconds / turns for name, seconds in spent.items()},
    )
    print(f"{SESSIONS} sessions: {told.added(0.5):.1f} ms added", file=sys.stderr, flush=True)
    return told


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    # What stands before the last parenthesis is its name.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resources() -> list[Resource]:
    clerk = AgentSpec(model="default", system_prompt="You are a clerk.", tools=["look-up"])
    look_up = ToolSpec(python=PythonTool(entry_point="bench.sessions.tools:look_up"))
    return [agent("clerk", clerk), model("default"), tool("look-up", look_up)]


def _idle() -> float:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1]) as place, redis(Path(place)) as server:
        said = answer("idle sessions", ours("bench.sessions.idle", server.url(), str(IDLE)))
    return float(said["megabytes"])
