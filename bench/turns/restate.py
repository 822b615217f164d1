"""The peer: a Restate server of its own, and the process or processes of its SDK that it calls."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

from support import ports

from bench.contender import PEERS, ContenderFailed, peer_command, prepare

HOME = PEERS / "restate"
START_TIMEOUT = 60.0


def install() -> None:
    """Its locked server and SDK. Raises ContenderFailed."""
    prepare("restate")
    if not _server().exists():
        npm = shutil.which("npm")
        if npm is None:
            raise ContenderFailed("peer restate: its server comes by npm, which is not installed")
        install = [npm, "ci", "--no-audit", "--no-fund"]
        done = subprocess.run(install, cwd=HOME, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ContenderFailed(f"peer restate cannot be installed:\n{done.stderr[-2000:]}")


@contextlib.asynccontextmanager
async def serving(directory: Path, processes: int) -> AsyncIterator[str]:
    """Both, with their data in `directory`: where its clients call it. `processes` are of the SDK."""
    ingress, admin, node, sdk = ports.free(4)
    environment = {
        "RESTATE_BASE_DIR": str(directory),
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_LOG_FILTER": "warn",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    log = directory / "restate.log"
    served = [*peer_command("restate"), str(sdk), str(processes)]
    with _process([str(_server()), "--no-logo"], log, environment), _process(served, log, {"PYTHONPATH": str(HOME)}):
        await _answered(f"http://127.0.0.1:{ingress}/restate/health", log)
        await _answered(f"http://127.0.0.1:{admin}/deployments", log, f'{{"uri": "http://127.0.0.1:{sdk}"}}')
        yield f"http://127.0.0.1:{ingress}"


def _said(log: Path) -> str:
    return log.read_text()[-2000:]


def _server() -> Path:
    return HOME / "node_modules" / ".bin" / "restate-server"


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    kept = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**kept, **environment},
            cwd=HOME,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # both start others
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _answered(url: str, log: Path, body: str | None = None) -> None:
    """Ask again and again until it answers well."""
    request = urllib.request.Request(url, None if body is None else body.encode(), {"content-type": "application/json"})
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            with await asyncio.to_thread(urllib.request.urlopen, request, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise ContenderFailed(f"peer restate did not start ({error}):\n{_said(log)}") from error
        await asyncio.sleep(0.2)
