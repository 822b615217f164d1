"""`B=recovery`: how long sessions wait for their next commit and token when a process is killed or stopped."""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support import rabbitmq, redis_server
from support.fleet_processes import FleetProcesses, Process, fleet_processes
from support.fleets import agent, model

from bench.faults import bare, restate
from bench.faults.busy import Busy, busy, percentile
from bench.rows import Row, alone, compared
from bench.turns import restate as restate_peer
from troupe.controlplane.settings import ControlPlaneSettings

WORKERS = ("w0", "w1")
SHARDS, SESSIONS = 32, 50
AGENT, TEXT = "clerk", "count to 8"
PER_TOKEN = 0.05
"""Seconds between two tokens of the model."""
WORKER_KILLS, OTHERS = 6, 2
"""Of a worker, and of each other kind, in each of the rounds."""
PATIENCE = 120.0
REST = 2.0
"""Seconds for which all goes on undisturbed before each fault."""

INCLUDES = f"""\
Included: two control planes on one SQLite file, two workers as processes on one RabbitMQ and one Redis with every
write on disk, all with their default settings, and the LLM simulator (time to first token 0, {PER_TOKEN:g} s between
tokens, answers of 8); {SESSIONS} sessions that ask again as soon as they are answered. A process that is killed is
started again at once, as whatever looks after processes does; one that is stopped goes on when all sessions have. From
the kill to each session's next commit, and to its next token, over all sessions and kills. What RabbitMQ and Redis take
to serve again is not counted: from when a bare client can commit again, which tries every {bare.EVERY:g} s. Restate's
server and the process of its Python SDK are killed in the same way, under as many virtual objects that count. All runs
on one machine."""


@dataclass
class Waits:
    """Seconds, of each session after each fault of one kind."""

    commits: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)


def measure(rounds: int, _seconds: float) -> Iterator[list[Row]]:
    """All rows. How much is measured does not depend on the seconds asked for."""
    restate_peer.install()
    waits = asyncio.run(_measured(rounds)) | asyncio.run(_peer(rounds))
    killed, stopped, calm = waits["worker SIGKILL"], waits["worker SIGSTOP"], waits["undisturbed"]
    rows = [
        *_rows("worker SIGKILL", killed, 1.5, 3.0),
        *_rows("worker SIGSTOP", stopped, None, 16.0),
        *_rows("RabbitMQ SIGKILL, after a bare client", waits["RabbitMQ SIGKILL"], None, 1.0),
        *_rows("Redis SIGKILL, after a bare client", waits["Redis SIGKILL"], None, 1.0),
    ]
    led = waits["control plane SIGKILL"]
    for name, ours, reference in (("commit", led.commits, calm.commits), ("token", led.tokens, calm.tokens)):
        rows.append(
            compared(
                f"control plane SIGKILL, next {name}, p99",
                "s",
                [percentile(ours, 0.99)],
                [percentile(reference, 0.99)],
                "undisturbed",
                goal=1.5,
                better="lower",
            )
        )
    for name in ("server", "sdk"):
        rows += _rows(f"Restate {name} SIGKILL", waits[name], None, None)
    yield rows


def _rows(title: str, waits: Waits, median: float | None, most: float | None) -> Iterator[Row]:
    """Nothing of tokens, where there are none."""
    for name, values in (("commit", waits.commits), ("token", waits.tokens)):
        if not values:
            continue
        for share, goal in ((0.5, median), (0.99, most)):
            metric = f"{title}, next {name}, p{share * 100:.0f}"
            yield alone(metric, "s", [percentile(values, share)], goal=goal, better="lower")


async def _measured(rounds: int) -> dict[str, Waits]:
    waits: dict[str, Waits] = {}
    with tempfile.TemporaryDirectory() as directory:
        async with _fleet(Path(directory)) as fleet, busy(fleet.gateways, AGENT, SESSIONS, TEXT) as sessions:
            faults: dict[str, tuple[int, Callable[[], Awaitable[float]]]] = {
                "worker SIGKILL": (WORKER_KILLS, fleet.kill_worker),
                "worker SIGSTOP": (OTHERS, lambda: fleet.stop_worker(sessions)),
                "control plane SIGKILL": (OTHERS, fleet.kill_leader),
                "RabbitMQ SIGKILL": (OTHERS, fleet.kill_rabbitmq),
                "Redis SIGKILL": (OTHERS, fleet.kill_redis),
                "undisturbed": (OTHERS, fleet.nothing),
            }
            for _ in range(rounds):
                for name, (count, fault) in faults.items():
                    for _ in range(count):
                        worst = await _suffer(sessions, fault, waits.setdefault(name, Waits()))
                        print(f"{name}: the last session waited {worst:.2f} s", file=sys.stderr, flush=True)
                        await fleet.whole()
    return waits


async def _peer(rounds: int) -> dict[str, Waits]:
    """Restate, killed as often; its objects are asked as often as ours are, and give no tokens."""
    waits = {"server": Waits(), "sdk": Waits()}
    with tempfile.TemporaryDirectory() as directory:
        async with (
            restate.serving(Path(directory)) as server,
            restate.busy(server, SESSIONS, 8 * PER_TOKEN) as sessions,
        ):
            for _ in range(rounds * WORKER_KILLS):
                for name, found in waits.items():
                    worst = await _suffer(sessions, lambda name=name: server.kill(name), found)  # type: ignore[misc]
                    print(f"Restate {name}: the last session waited {worst:.2f} s", file=sys.stderr, flush=True)
    return waits


async def _suffer(sessions: Busy, fault: Callable[[], Awaitable[float]], waits: Waits) -> float:
    """The longest that a session waited for its next commit."""
    await asyncio.sleep(REST)
    since = await fault()
    await sessions.went_on(since, PATIENCE)
    for session in sessions.sessions:
        waits.commits.append(session.next_commit(since) or 0.0)
        if session.tokens:
            waits.tokens.append(session.next_token(since) or 0.0)
    return max(waits.commits[-len(sessions.sessions) :])


@dataclass
class Fleet:
    """What is killed. Each fault returns the time from which on sessions are waited for."""

    processes: FleetProcesses
    node: rabbitmq.Node
    store: redis_server.RedisServer
    llm: str
    workers: dict[str, Process]
    turn: int = 0

    @property
    def gateways(self) -> list[str]:
        return [worker.address for worker in self.workers.values()]

    async def start_worker(self, name: str, address: str = "") -> None:
        self.workers[name] = await self.processes.worker(name, address, llm=self.llm, model="sim", health_window=0)

    async def kill_worker(self) -> float:
        name = self._next()
        began = time.monotonic()
        await self.workers[name].kill()
        await self.start_worker(name, self.workers[name].address)
        return began

    async def stop_worker(self, sessions: Busy) -> float:
        worker = self.workers[self._next()]
        began = time.monotonic()
        worker.signal(signal.SIGSTOP)
        try:
            await sessions.went_on(began, PATIENCE)
        finally:
            worker.signal(signal.SIGCONT)
        return began

    async def kill_leader(self) -> float:
        leader = await self.processes.leader()
        began = time.monotonic()
        await leader.kill()
        await self.start_plane(leader.address)
        return began

    async def start_plane(self, address: str = "") -> Process:
        defaults = ControlPlaneSettings.model_fields
        names = ("lease", "renew_after", "leader_lease", "leader_renew_deadline", "leader_retry")
        return await self.processes.control_plane(
            address, workers=len(WORKERS), **{name: defaults[name].default for name in names}
        )

    async def kill_rabbitmq(self) -> float:
        await asyncio.to_thread(self.node.kill)
        _, commits = await asyncio.gather(
            asyncio.to_thread(self.node.start), asyncio.to_thread(bare.rabbitmq, self.node.url)
        )
        return commits

    async def kill_redis(self) -> float:
        await asyncio.to_thread(self.store.kill)
        _, commits = await asyncio.gather(
            asyncio.to_thread(self.store.start), asyncio.to_thread(bare.redis, self.store.port)
        )
        return commits

    async def nothing(self) -> float:
        return time.monotonic()

    async def whole(self) -> None:
        """Wait until all workers hold their shards again."""
        # One that stands by answers too, with what is stored alone: the one that leads is to be asked first.
        leader = (await self.processes.leader()).address
        self.processes.servers.sort(key=lambda address: address != leader)
        await self.processes.settled(*WORKERS)

    def _next(self) -> str:
        self.turn += 1
        return WORKERS[self.turn % len(WORKERS)]


async def _served(start: Callable[[], None], commits: Callable[[], float]) -> float:
    """Start a server; when a bare client could commit."""
    _, at = await asyncio.gather(asyncio.to_thread(start), asyncio.to_thread(commits))
    return at


@asynccontextmanager
async def _fleet(directory: Path) -> AsyncIterator[Fleet]:
    with rabbitmq.running() as node, redis_server.running(directory) as store:
        async with fleet_processes(directory, node.url, store.url(), SHARDS) as processes:
            simulator = await processes.simulator(ttft="constant:0", per_token=f"constant:{PER_TOKEN:g}")
            fleet = Fleet(processes, node, store, f"http://{simulator.address}/v1", {})
            for _ in range(2):
                await fleet.start_plane()
            for name in WORKERS:
                await fleet.start_worker(name)
            await processes.apply([agent(AGENT), model("default")])
            await fleet.whole()
            yield fleet
