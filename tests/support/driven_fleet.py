"""Worker processes on shared back ends, with the test in the part of their control plane: it says which worker holds
which shard, moves shards, kills and stops workers."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from support.serving_worker import config

from troupe.chassis.rpc_client import channel
from troupe.chassis.wire import duration
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.control_plane_pb2 import RegisterRequest, RegisterResponse
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceServicer, add_ControlPlaneServiceServicer_to_server
from troupe.v1.data_plane_pb2 import ApplyRequest, PlaceRequest, ReportRequest, ShardAssignment
from troupe.v1.data_plane_pb2_grpc import DataPlaneServiceStub
from troupe.v1.resource_pb2 import ConfigSpec, Resource
from troupe.v1.status_pb2 import ShardStatus

START_TIMEOUT = 30.0
RELEASE_TIMEOUT = 15.0


@dataclass
class WorkerProcess:
    """One process of one worker."""

    worker_id: str
    process: asyncio.subprocess.Process
    log: Path
    registered: asyncio.Event = field(default_factory=asyncio.Event)
    instance_id: str = ""
    address: str = ""
    stopped: bool = False

    @property
    def runs(self) -> bool:
        return self.process.returncode is None

    @property
    def serves(self) -> bool:
        """It runs, and has said where."""
        return self.runs and bool(self.address)

    @property
    def key(self) -> str:
        """Its own, among all processes."""
        return self.instance_id

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        if self.runs:
            self.process.send_signal(signal.SIGSTOP)
            self.stopped = True

    def thaw(self) -> None:
        if self.runs:
            self.process.send_signal(signal.SIGCONT)
        self.stopped = False

    async def kill(self) -> None:
        """SIGKILL, now."""
        if self.runs:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        if self.runs:
            self.process.terminate()
        return await self.process.wait()


class DrivenFleet(ControlPlaneServiceServicer):
    """See the module's text. Make one with `driven_fleet`."""

    def __init__(self, directory: Path, shards: int, flags: Mapping[str, Any], resources: Collection[Resource]) -> None:
        self.shards = shards
        self.workers: dict[str, WorkerProcess] = {}
        """The newest process of each."""
        self._directory, self._flags = directory, flags
        self._config: ConfigSpec = config(1, *resources)
        self._assigned: dict[int, ShardAssignment] = {}
        self._own: dict[str, dict[str, Any]] = {}
        self._version = 0
        self.server = ""

    async def Register(self, request: RegisterRequest, context: Any) -> RegisterResponse:  # noqa: N802
        worker = self.workers.get(request.worker_id)
        if worker is not None and not worker.registered.is_set():
            worker.instance_id, worker.address = request.instance_id, request.address
            worker.registered.set()
        return RegisterResponse(renew_after=duration(1.0))

    async def start(self, worker_id: str, *, apply: bool = True, **own: Any) -> WorkerProcess:
        """A new process of this worker, with the revision applied unless the test does that, and without shards. `own`
        are settings of its own; a later process of it has them too."""
        own = self._own[worker_id] = {**self._own.get(worker_id, {}), **own}
        log = self._directory / f"{worker_id}.log"
        flags = {
            "listen": "127.0.0.1:0",
            "server": self.server,
            "worker_id": worker_id,
            "data": self._directory / worker_id,
            "metrics_listen": "",
            "health_window": 0,
            "health_checks": 1,
            "drain_patience": 0,
            **self._flags,
            **own,
        }
        arguments = [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "troupe.cli.main", "dataplane", *arguments),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        worker = self.workers[worker_id] = WorkerProcess(worker_id, process, log)
        async with asyncio.timeout(START_TIMEOUT):
            while not worker.registered.is_set():
                assert worker.runs, f"{worker_id} ended: {log.read_text()[-3000:]}"
                await asyncio.wait([asyncio.ensure_future(worker.registered.wait())], timeout=0.1)
        if not apply:
            return worker
        async with self.data_plane(worker) as stub:
            await stub.Apply(ApplyRequest(config=self._config), timeout=START_TIMEOUT)
        return worker

    @asynccontextmanager
    async def agents(self, worker: WorkerProcess) -> AsyncIterator[Any]:
        """The AgentService of this process."""
        async with channel(worker.address) as connection:
            yield AgentServiceStub(connection)

    @asynccontextmanager
    async def data_plane(self, worker: WorkerProcess) -> AsyncIterator[Any]:
        async with channel(worker.address) as connection:
            yield DataPlaneServiceStub(connection)

    async def place(self, owners: Mapping[int, str]) -> None:
        """Give these shards to these workers' newest processes at once, and tell everyone who answers."""
        for shard, worker_id in owners.items():
            worker, before = self.workers[worker_id], self._assigned.get(shard)
            if before is None or before.instance_id != worker.instance_id:
                self._assigned[shard] = ShardAssignment(
                    shard=shard,
                    epoch=before.epoch + 1 if before else 1,
                    worker_id=worker_id,
                    instance_id=worker.instance_id,
                    address=worker.address,
                )
        await self._tell(revoked=())

    async def hand_over(self, owners: Mapping[int, str]) -> None:
        """Move the shards gracefully: each is released by its owner before the next one gets it. Raises TimeoutError
        where an owner does not let go."""
        await self._tell(revoked=owners)
        async with asyncio.timeout(RELEASE_TIMEOUT):
            for shard in owners:
                while await self._holds(self._assigned[shard]):  # noqa: ASYNC110 - another process tells when asked
                    await asyncio.sleep(0.02)
        await self.place(owners)

    async def statuses(self, worker: WorkerProcess) -> list[ShardStatus]:
        """The shards that the process says it has."""
        async with self.data_plane(worker) as stub:
            call = stub.Report(ReportRequest(), timeout=5.0)
            async for response in call:
                call.cancel()
                return list(response.report.shards)
        raise AssertionError("a report comes at once")

    def owner(self, shard: int) -> str:
        """The worker that was given the shard last."""
        return self._assigned[shard].worker_id

    def owned(self, worker_id: str) -> list[int]:
        """The shards that were given to the worker last."""
        return [shard for shard, assigned in self._assigned.items() if assigned.worker_id == worker_id]

    async def _holds(self, assigned: ShardAssignment) -> bool:
        worker = self.workers[assigned.worker_id]
        if worker.instance_id != assigned.instance_id or not worker.runs:
            return False
        held = await self.statuses(worker)
        return any((one.shard, one.epoch) == (assigned.shard, assigned.epoch) for one in held)

    async def _tell(self, revoked: Iterable[int]) -> None:
        self._version += 1
        revoked = set(revoked)
        request = PlaceRequest(
            term=1,
            version=self._version,
            shard_count=self.shards,
            live_instance_ids=[worker.instance_id for worker in self.workers.values() if worker.runs],
        )
        for shard, assigned in self._assigned.items():
            request.shards.add(revoked=shard in revoked).MergeFrom(assigned)
        await asyncio.gather(*(self._tell_one(worker, request) for worker in self.workers.values()))

    async def _tell_one(self, worker: WorkerProcess, request: PlaceRequest) -> None:
        """Whoever does not answer hears of it with the next placement."""
        if worker.serves and not worker.stopped:
            try:
                async with self.data_plane(worker) as stub:
                    await stub.Place(request, timeout=5.0)
            except grpc.aio.AioRpcError:
                return


@asynccontextmanager
async def driven_fleet(
    directory: Path, *, broker: str, state: str, shards: int, resources: Collection[Resource], **flags: Any
) -> AsyncIterator[DrivenFleet]:
    """A fleet without workers; those that were started are killed at the end. `flags` are settings of workers."""
    # Workers call Register, and nothing else.
    fleet = DrivenFleet(  # type: ignore[abstract]
        directory, shards, {"broker": broker, "state": state, **flags}, resources
    )
    server = grpc.aio.server()
    add_ControlPlaneServiceServicer_to_server(fleet, server)
    fleet.server = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield fleet
    finally:
        for worker in fleet.workers.values():
            await worker.kill()
        await server.stop(0)
