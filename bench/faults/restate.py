"""The peer under the same faults: a Restate server and the process of its SDK, each killed and started again, under as
many busy clients."""

import asyncio
import itertools
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from support import ports

from bench.contender import peer_command
from bench.faults.busy import AGAIN, CALL, Busy, Session
from bench.turns import restate

PROCESSES = 1
START_TIMEOUT = 60.0


@dataclass
class Restate:
    """Both, with their data in `directory`. Make one with `serving`."""

    directory: Path
    ingress: int
    admin: int
    node: int
    sdk: int
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ingress}"

    async def kill(self, name: str) -> float:
        """SIGKILL the `server` or the `sdk`, and start it again at once; when it was killed, on time.monotonic()."""
        began = time.monotonic()
        self._end(name)
        self._start(name)
        return began

    async def start(self) -> None:
        """Start both, and tell the server of the SDK."""
        self._start("server")
        self._start("sdk")
        await self._answers(f"{self.url}/restate/health", None)
        await self._answers(f"http://127.0.0.1:{self.admin}/deployments", {"uri": f"http://127.0.0.1:{self.sdk}"})

    def close(self) -> None:
        for name in list(self.running):
            self._end(name)

    def _start(self, name: str) -> None:
        command = (
            [str(restate.HOME / "node_modules" / ".bin" / "restate-server"), "--no-logo"]
            if name == "server"
            else [*peer_command("restate"), str(self.sdk), str(PROCESSES)]
        )
        environment = {
            **{key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"},
            "RESTATE_BASE_DIR": str(self.directory),
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{self.ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{self.admin}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{self.node}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_LOG_FILTER": "warn",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(restate.HOME),
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                env=environment,
                cwd=restate.HOME,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # both start others
            )

    def _end(self, name: str) -> None:
        process = self.running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    async def _answers(self, url: str, body: dict[str, str] | None) -> None:
        """Ask again and again until it answers well."""
        async with asyncio.timeout(START_TIMEOUT), aiohttp.ClientSession() as client:
            while True:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with client.request("GET" if body is None else "POST", url, json=body) as response:
                        if response.ok:
                            return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Restate]:
    """Both serve."""
    ingress, admin, node, sdk = ports.free(4)
    found = Restate(directory, ingress, admin, node, sdk)
    try:
        await found.start()
        yield found
    finally:
        found.close()


@asynccontextmanager
async def busy(server: Restate, count: int, pause: float) -> AsyncIterator[Busy]:
    """So many objects that are asked again `pause` seconds after each answer, until the block is left; a call that
    fails is made again under its idempotency key."""
    all_ = Busy([Session(f"s{number}") for number in range(count)])
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client, asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(_client(client, server.url, session, pause)) for session in all_.sessions]
        yield all_
        for one in clients:
            one.cancel()


async def _client(client: aiohttp.ClientSession, url: str, session: Session, pause: float) -> None:
    for number in itertools.count():
        key = f"{session.name}-{number}"
        asked = time.monotonic()
        while not await _call(client, f"{url}/Counter/{session.name}/count", key):  # noqa: ASYNC110 - it tells then
            await asyncio.sleep(AGAIN)
        session.asked.append(asked)
        session.commits.append(time.monotonic())
        await asyncio.sleep(pause)


async def _call(client: aiohttp.ClientSession, url: str, key: str) -> bool:
    """Whether it was answered well."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with client.post(
            url, json="one more", headers={"idempotency-key": key}, timeout=aiohttp.ClientTimeout(CALL)
        ) as response:
            await response.read()
            return response.ok
    return False
