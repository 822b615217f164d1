"""Control planes and workers as real processes on shared back ends: killed, stopped and started again by the test."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from support import ports
from support.recording_actor import READ, Applied, Operation

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.chassis.wire import duration
from troupe.v1.agent_pb2 import GetMessageRequest, MessageStatus, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.control_plane_pb2 import (
    DrainRequest,
    GetRevisionRequest,
    ListRevisionsRequest,
    RevisionInfo,
    SyncRequest,
    WatchStatusRequest,
    WorkerStatus,
)
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import Resource
from troupe.v1.rollout_pb2 import RolloutPolicy
from troupe.v1.status_pb2 import APPLY_PHASE_APPLIED, SHARD_STATE_ACTIVE

TIMEOUT = 60.0
PACE = {
    "lease": 4.0,
    "renew_after": 0.5,
    "leader_lease": 3.0,
    "leader_renew_deadline": 2.0,
    "leader_retry": 0.4,
}
"""Settings of control planes: everything that takes its time, quicker."""

Held = dict[int, tuple[str, str, int]]
"""Worker, process and epoch of each shard."""


@dataclass
class Process:
    """One process, and where it serves."""

    name: str
    address: str
    running: asyncio.subprocess.Process
    log: Path

    @property
    def runs(self) -> bool:
        return self.running.returncode is None

    @property
    def serves(self) -> bool:
        """One that is told to stop goes on for a while."""
        return self.runs

    @property
    def key(self) -> str:
        """Its own, among all processes."""
        return f"{self.name} {self.running.pid}"

    def said(self) -> str:
        return self.log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log that say this."""
        lines = (line for line in self.said().splitlines() if f'"event": "{name}"' in line)
        return [json.loads(line) for line in lines]

    def signal(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, now."""
        if self.runs:
            self.running.kill()
        await self.running.wait()

    async def ended(self, within: float = TIMEOUT) -> int:
        """Its exit status."""
        async with asyncio.timeout(within):
            return await self.running.wait()


@dataclass
class FleetProcesses:
    """Make one with `fleet_processes`."""

    directory: Path
    broker: str
    state: str
    shards: int
    processes: list[Process] = field(default_factory=list)
    servers: list[str] = field(default_factory=list)
    """Addresses of the control planes, for workers that start."""
    _revision: str = ""

    async def control_plane(self, address: str = "", **settings: Any) -> Process:
        """A control plane that serves, at a free address or at this one. All share one store."""
        address = address or free_address()
        found = await self._started(
            "controlplane",
            "controlplane",
            address,
            {
                "store": f"sqlite:///{self.directory / 'control.db'}",
                "data": self.directory / "controlplane",
                "shards": self.shards,
                **PACE,
                **settings,
            },
        )
        if address not in self.servers:
            self.servers.append(address)
        return found

    async def worker(
        self, name: str, address: str = "", environment: Mapping[str, str] | None = None, **settings: Any
    ) -> Process:
        """A worker that serves, at a free address or at this one; a new process of it, where there is one. It has
        `environment` beside this process' own."""
        return await self._started(
            "dataplane",
            name,
            address or free_address(),
            {
                "worker_id": name,
                "server": ",".join(self.servers),
                "broker": self.broker,
                "state": self.state,
                "data": self.directory / "workers",
                "health_window": 0,
                "health_checks": 1,
                **settings,
            },
            environment,
        )

    async def simulator(self, **settings: Any) -> Process:
        """An LLM simulator that serves."""
        address = free_address()
        return await self._started("llm-sim", "llm-sim", address, settings, serves=f'"url": "http://{address}')

    async def apply(
        self, resources: Iterable[Resource], policy: RolloutPolicy | None = None, parent: str | None = None
    ) -> str:
        """Bring the fleet its revision, through whichever control plane leads; the revision's id. `parent` is the one
        before that, unless one is named."""
        request = SyncRequest(
            revision_id=uuid7(),
            parent_revision_id=self._revision if parent is None else parent,
            resources=resources,
            rollout=policy,
        )
        await self._led(lambda stub: stub.Sync(request, timeout=10))
        self._revision = request.revision_id
        return request.revision_id

    async def newest(self) -> RevisionInfo:
        """The newest revision, as the store has it."""
        answer = await self._led(lambda stub: stub.GetRevision(GetRevisionRequest(), timeout=10))
        return answer.revision  # type: ignore[no-any-return]

    async def revisions(self) -> list[RevisionInfo]:
        """All of them, the newest first."""
        answer = await self._led(lambda stub: stub.ListRevisions(ListRevisionsRequest(page_size=100), timeout=10))
        return list(answer.revisions)

    async def leader(self) -> Process:
        """The control plane that leads."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                for process in self.processes:
                    if process.runs and process.address in self.servers and await _leads(process):
                        return process
                await asyncio.sleep(0.05)

    async def drain(self, worker_id: str) -> str:
        """The process that drains."""
        response = await self._led(lambda stub: stub.Drain(DrainRequest(worker_id=worker_id), timeout=10))
        return str(response.instance_id)

    async def workers(self) -> dict[str, WorkerStatus]:
        """What the leader knows of each."""
        return await self._led(_snapshot)  # type: ignore[no-any-return]

    async def held(self) -> Held:
        """By what the workers report."""
        return {
            shard.shard: (worker.worker_id, worker.report.instance_id, shard.epoch)
            for worker in (await self.workers()).values()
            for shard in worker.report.shards
            if shard.state == SHARD_STATE_ACTIVE
        }

    async def settled(self, *names: str) -> Held:
        """Wait until exactly these workers hold all shards, about equally, and run the newest revision."""
        even = self.shards // len(names)

        def holds(workers: dict[str, WorkerStatus]) -> bool:
            held = {name: _active(worker) for name, worker in workers.items()}
            return sum(held.values()) == self.shards and all(
                held.get(name, 0) >= even and workers[name].report.last_attempt.phase == APPLY_PHASE_APPLIED
                for name in names
            )

        await self.until(holds)
        return await self.held()

    async def until(self, holds: Callable[[dict[str, WorkerStatus]], bool]) -> dict[str, WorkerStatus]:
        """The first status of which this is true."""
        async with asyncio.timeout(TIMEOUT):
            while not holds(workers := await self.workers()):  # noqa: ASYNC110 - other processes tell when asked
                await asyncio.sleep(0.1)
        return workers

    async def _led(self, call: Callable[[Any], Any]) -> Any:
        """What the leader answers."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                for address in self.servers:
                    async with channel(address) as connection:
                        stub: Any = ControlPlaneServiceStub(connection)
                        try:
                            return await call(stub)
                        except grpc.aio.AioRpcError as error:
                            if error.code() != grpc.StatusCode.UNAVAILABLE:
                                raise
                await asyncio.sleep(0.1)

    async def _started(
        self,
        service: str,
        name: str,
        address: str,
        settings: dict[str, Any],
        environment: Mapping[str, str] | None = None,
        serves: str = "",
    ) -> Process:
        """`serves` is what its log says then, where that is not its address."""
        log = self.directory / f"{name}-{len(self.processes)}.log"
        flags = {"listen": address, "metrics_listen": "", "log_format": "json", **settings}
        arguments = [text for key, value in flags.items() for text in (f"--{key.replace('_', '-')}", str(value))]
        with log.open("ab") as output:
            running = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "troupe.cli.main", service, *arguments),
                env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        process = Process(name, address, running, log)
        self.processes.append(process)
        async with asyncio.timeout(TIMEOUT):
            while (serves or f'"listen": "{address}"') not in process.said():
                assert process.runs, f"{name} ended: {process.said()[-3000:]}"
                await asyncio.sleep(0.05)
        return process


async def send(gateway: Process, session: str, operation: Operation, timeout: float = 20.0) -> str:
    """The message's id, once it is confirmed."""
    message_id = f"{operation.sender}-{operation.number}"
    request = SendRequest(session=_ref(session), message_id=message_id, content=Content(text=operation.text()))
    async with channel(gateway.address) as connection:
        stub: Any = AgentServiceStub(connection)
        await stub.Send(request, timeout=timeout)
    return message_id


async def end(gateway: Process, session: str, message_id: str, within: float = 60.0) -> MessageStatus:
    """What became of the message."""
    request = GetMessageRequest(session=_ref(session), message_id=message_id, wait=duration(within))
    async with channel(gateway.address) as connection:
        stub: Any = AgentServiceStub(connection)
        return (await stub.GetMessage(request, timeout=within + 10)).status  # type: ignore[no-any-return]


async def applied(gateway: Process, session: str) -> Applied:
    """What has taken effect in the session."""
    request = SendRequest(session=_ref(session), content=Content(text=READ), wait=duration(30))
    async with channel(gateway.address) as connection:
        stub: Any = AgentServiceStub(connection)
        return Applied.read((await stub.Send(request, timeout=40)).status.result.text)


@asynccontextmanager
async def fleet_processes(directory: Path, broker: str, state: str, shards: int) -> AsyncIterator[FleetProcesses]:
    """A fleet without processes; those that were started are killed at the end."""
    fleet = FleetProcesses(directory, broker, state, shards)
    try:
        yield fleet
    finally:
        for process in fleet.processes:
            await process.kill()


async def _leads(process: Process) -> bool:
    async with channel(process.address) as connection:
        stub: Any = ControlPlaneServiceStub(connection)
        try:
            # Nobody is called so; a control plane that stands by does not look.
            await stub.Drain(DrainRequest(worker_id="nobody"), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.NOT_FOUND
    return False


async def _snapshot(stub: Any) -> dict[str, WorkerStatus]:
    workers: dict[str, WorkerStatus] = {}
    await stub.GetRevision(GetRevisionRequest(), timeout=10)  # known not to be in the middle of a takeover
    call = stub.WatchStatus(WatchStatusRequest(), timeout=10)
    async for piece in call:
        if piece.HasField("synced"):
            call.cancel()
            break
        if piece.HasField("worker"):
            workers[piece.worker.worker_id] = piece.worker
    return workers


def _active(worker: WorkerStatus) -> int:
    return sum(shard.state == SHARD_STATE_ACTIVE for shard in worker.report.shards)


def _ref(session: str) -> SessionRef:
    return SessionRef(agent="recorder", session=session)


def free_address() -> str:
    """Where nobody listens."""
    (port,) = ports.free()
    return f"127.0.0.1:{port}"
