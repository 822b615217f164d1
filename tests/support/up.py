"""`troupe up` as a real process, to be killed and started again on the same data directory."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT = 20.0


@dataclass
class Up:
    """One data directory and the process that serves it now. `directory` is also where its tools are imported from."""

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    manifests: Path | None = None
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
                env={**os.environ, "TROUPE_METRICS_LISTEN": "127.0.0.1:0", **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START_TIMEOUT):
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
