"""A whole fleet for tests: as a real process, to be killed and started again on the same data, or in this one."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support import ports

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.controlplane import process as controlplane
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.dataplane import process as dataplane
from troupe.dataplane.settings import DataPlaneSettings
from troupe.llm_sim import process as llm_sim
from troupe.llm_sim.settings import LlmSimSettings
from troupe.resources.manifest import parse_all
from troupe.v1.control_plane_pb2 import SyncRequest, WatchStatusRequest
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.resource_pb2 import Resource
from troupe.v1.status_pb2 import APPLY_PHASE_APPLIED

START_TIMEOUT = 20.0
FIRST_FLEET = Path(__file__).parents[2] / "examples" / "first-fleet"


@dataclass
class Up:
    """One data directory and the process that serves it now. `directory` is also where its tools are imported from."""

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    manifests: Path | None = None
    patience: float = START_TIMEOUT
    """Seconds that a start may take."""
    process: asyncio.subprocess.Process | None = None
    server: str = ""
    gateway: str = ""

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "up.log"

    async def start(self) -> None:
        """Return once it serves: it has written where."""
        endpoints = self.data / "endpoints.json"
        endpoints.unlink(missing_ok=True)
        arguments = ["-m", "troupe.cli.main", "up", "--data", str(self.data)]
        if self.manifests is not None:
            arguments.append(str(self.manifests))
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                cwd=self.directory,
                env={**os.environ, **ports.ELSEWHERE, "TROUPE_METRICS_LISTEN": "127.0.0.1:0", **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(self.patience):
            while not endpoints.exists():
                if self.process.returncode is not None:
                    raise AssertionError(f"troupe up ended: {self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.02)
        found = json.loads(endpoints.read_text())
        self.server, self.gateway = found["server"], found["gateway"]

    async def kill(self) -> None:
        """SIGKILL, now."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Ctrl-C; the exit status."""
        return await self._end(signal.SIGINT)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.process.wait()


@contextlib.asynccontextmanager
async def up(
    directory: Path, environment: Mapping[str, str] | None = None, manifests: Path | None = None
) -> AsyncIterator[Up]:
    """A started fleet, killed at the end if it still runs."""
    fleet = Up(directory, environment or {}, manifests)
    await fleet.start()
    try:
        yield fleet
    finally:
        if fleet.process is not None and fleet.process.returncode is None:
            await fleet.kill()


@contextlib.asynccontextmanager
async def in_process(directory: Path, manifests: Path) -> AsyncIterator[str]:
    """A fleet in this process, with `manifests` applied; the worker's address."""
    declared = _declared(manifests)
    plain = {"data": directory, "metrics_listen": "", "listen": "127.0.0.1:0"}
    async with (
        controlplane.running(ControlPlaneSettings.load(plain)) as control_plane,
        llm_sim.running(
            LlmSimSettings.load({"listen": "127.0.0.1:0", "ttft": "constant:0.01", "per_token": "constant:0.001"})
        ) as simulator,
        dataplane.running(
            DataPlaneSettings.load(
                {**plain, "server": control_plane.address, "llm": simulator.url, "model": "sim", "drain_timeout": 0.1}
            )
        ) as worker,
        channel(control_plane.address) as connection,
    ):
        stub = ControlPlaneServiceStub(connection)
        await stub.Sync(SyncRequest(revision_id=uuid7(), resources=declared))
        async with asyncio.timeout(START_TIMEOUT):
            async for status in stub.WatchStatus(WatchStatusRequest()):
                if status.worker.report.last_attempt.phase == APPLY_PHASE_APPLIED:
                    break
        yield worker.address


def _declared(manifests: Path) -> list[Resource]:
    files = ((path.name, path.read_text()) for path in sorted(manifests.glob("*.yaml")))
    return [declared.resource for declared in parse_all(files)]
