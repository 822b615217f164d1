"""A `troupe controlplane` process with workers in a few others, and the calls that are measured on them."""

import asyncio
import contextlib
import json
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.contender import ContenderFailed
from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.v1.control_plane_pb2 import ListRevisionsRequest, SyncRequest, WatchStatusRequest
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.data_plane_pb2 import DESCRIPTOR, ApplyRequest, ApplyResponse
from troupe.v1.resource_pb2 import AgentSpec, ConfigSpec, Metadata, ModelSpec, Resource
from troupe.v1.rollout_pb2 import RolloutPolicy, RolloutStage, WorkerShare

AT_ONCE = RolloutPolicy(canary=WorkerShare(workers=0), max_unavailable=WorkerShare(percent=100), max_failures=0)
PROCESSES = 4
"""That the workers are spread over."""
PATIENCE = 120.0
_APPLY = f"/{DESCRIPTOR.services_by_name['DataPlaneService'].full_name}/Apply"


@dataclass
class Fleet:
    """See `running`."""

    stub: Any
    pid: int
    addresses: Sequence[str]
    newest: str = ""

    async def sync(self, resources: Sequence[Resource]) -> tuple[float, float]:
        """Seconds until the Sync was answered, and from then until all workers were known to be APPLIED. Raises
        ContenderFailed where that does not come."""
        request = SyncRequest(revision_id=uuid7(), parent_revision_id=self.newest, resources=resources, rollout=AT_ONCE)
        watch = self.stub.WatchStatus(WatchStatusRequest())
        complete = asyncio.create_task(self._completed(watch, request.revision_id))
        try:
            await asyncio.sleep(0.5)  # the watch has its snapshot
            begun = time.perf_counter()
            await self.stub.Sync(request, timeout=PATIENCE)
            committed = time.perf_counter()
            async with asyncio.timeout(PATIENCE):
                done = await complete
        except TimeoutError as error:
            raise ContenderFailed("the control plane did not bring a revision to all workers") from error
        finally:
            complete.cancel()
            watch.cancel()
        self.newest = request.revision_id
        return committed - begun, done - committed

    async def _completed(self, watch: Any, revision_id: str) -> float:
        async for piece in watch:
            about = piece.revision
            if about.revision_id == revision_id and about.rollout.stage == RolloutStage.ROLLOUT_STAGE_COMPLETE:
                applied = sum(not row.failed for row in about.rollout.workers)
                if applied != len(self.addresses):
                    raise ContenderFailed(f"{applied} of {len(self.addresses)} workers are APPLIED")
                return time.perf_counter()
        raise ContenderFailed("the control plane ended a watch")

    async def fan_out(self, resources: Sequence[Resource], rounds: int) -> list[float]:
        """Seconds for the same Apply to all workers at once, by a client that does nothing else, in each round."""
        config = ConfigSpec(revision_id=uuid7(), generation=1, resources=resources, content_hash="0" * 64)
        request = ApplyRequest(config=config).SerializeToString()
        async with contextlib.AsyncExitStack() as stack:
            calls: list[Any] = [
                (await stack.enter_async_context(channel(address))).unary_unary(_APPLY, None, ApplyResponse.FromString)
                for address in self.addresses
            ]
            taken = []
            for _ in range(rounds + 1):
                begun = time.perf_counter()
                await asyncio.gather(*(call(request, timeout=PATIENCE) for call in calls))
                taken.append(time.perf_counter() - begun)
        return taken[1:]  # the first one connects

    @contextlib.asynccontextmanager
    async def watched(self, count: int) -> AsyncIterator[None]:
        """So many watch, and read."""
        async with asyncio.TaskGroup() as group:
            watches = [self.stub.WatchStatus(WatchStatusRequest()) for _ in range(count)]
            tasks = [group.create_task(_read(watch)) for watch in watches]
            yield
            for task in tasks:
                task.cancel()

    def memory(self) -> tuple[float, float]:
        """MB that the control plane's process has resident, now and at most so far."""
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if ":" in line
        )
        now, most = (int(status[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
        return now, most


@contextlib.asynccontextmanager
async def running(workers: int) -> AsyncIterator[Fleet]:
    """A control plane on SQLite, with so many workers that all know their shards."""
    async with contextlib.AsyncExitStack() as stack:
        data = Path(stack.enter_context(TemporaryDirectory()))
        address = f"127.0.0.1:{_free_port()}"
        plane = await _started(stack, "troupe.cli.main", *_plane(address, data, workers))
        connection = await stack.enter_async_context(channel(address))
        stub: Any = ControlPlaneServiceStub(connection)
        await stub.ListRevisions(ListRevisionsRequest(), timeout=PATIENCE, wait_for_ready=True)
        each = workers // PROCESSES
        addresses: list[str] = []
        for number in range(PROCESSES):
            process = await _started(stack, "bench.controlplane.workers", address, str(number * each), str(each))
            assert process.stdout is not None
            addresses += json.loads(await process.stdout.readline() or "[]")
        if len(addresses) != workers:
            raise ContenderFailed(f"{len(addresses)} of {workers} workers serve")
        yield Fleet(stub, plane.pid, addresses)


def resources(count: int, version: int, changed: int | None = None) -> list[Resource]:
    """So many, the first `changed` of which, or all, are others in each version: agents with a prompt of 300 bytes, of
    one model."""
    made = [_packed("Model", "model", ModelSpec(model="one"))]
    for number in range(count - 1):
        text = version if changed is None or number < changed else 0
        spec = AgentSpec(model="model", system_prompt=f"You are clerk {number} of version {text}. " + "x" * 260)
        made.append(_packed("Agent", f"agent-{number}", spec))
    return made


def _packed(kind: str, name: str, spec: Any) -> Resource:
    resource = Resource(kind=kind, metadata=Metadata(name=name, namespace="default"))
    resource.spec.Pack(spec, deterministic=True)
    return resource


def _plane(address: str, data: Path, workers: int) -> list[str]:
    settings = {"listen": address, "data": data, "metrics-listen": "", "shards": 10 * workers}
    return ["controlplane", *(text for name, value in settings.items() for text in (f"--{name}", str(value)))]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _started(stack: contextlib.AsyncExitStack, module: str, *arguments: str) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    stack.push_async_callback(_stopped, process)
    return process


async def _stopped(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _read(watch: Any) -> None:
    async for _ in watch:
        pass
