"""Private Redis servers: on loopback, with a free port and a directory of their own, every write on disk at once.

`TROUPE_TEST_REDIS_URL` names a server to use for those tests that neither stop nor change it.
"""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest
from support import ports

GIVEN_URL = "TROUPE_TEST_REDIS_URL"
DURABLE = {"appendonly": "yes", "appendfsync": "always", "save": ""}
"""Settings of a server that sessions can be entrusted to."""
PATIENCE = 20.0


class RedisServer:
    """One server, which may be stopped, killed, paused and started again on its port and directory."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None, **settings: str) -> None:
        self._directory, self._environment = directory, os.environ | (environment or {})
        self.file_limit: int | None = None
        """Bytes that a file of the server's may have from its next start on: beyond, it is as if the disk were full."""
        self._settings = {**DURABLE, **{name.replace("_", "-"): value for name, value in settings.items()}}
        (self.port,) = ports.free()
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, prefix: str = "troupe", *, port: int = 0, password: str = "") -> str:
        """Where a store of its own is."""
        secret = f":{password}@" if password else ""
        return f"redis://{secret}127.0.0.1:{port or self.port}/0?prefix={quote(prefix, safe='')}"

    def prefix(self, prefix: str) -> str:
        """What a store of this prefix has."""
        return prefix

    def start(self) -> None:
        """Returns once it answers."""
        settings = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self._directory), **self._settings}
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._limit(),
                    _program(),
                    *(part for name, value in settings.items() for part in (f"--{name}", value)),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        end = time.monotonic() + PATIENCE
        while b"PONG" not in (reply := self._ping()) and b"NOAUTH" not in reply:
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(self.log())
            time.sleep(0.01)

    def wait(self) -> None:
        """Return once it has stopped by itself."""
        self._process.wait(PATIENCE)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """In good order; one that is stuck in a script is killed."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self._directory / "redis.log").read_text()

    def ask(self, *command: str) -> str:
        """What redis-cli prints."""
        asked = ["redis-cli", "-p", str(self.port), *command]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()

    def _limit(self) -> Sequence[str]:
        """What limits the command behind it. A server that is not told of its limit by a signal sees a failed write."""
        if self.file_limit is None:
            return ()
        return ("prlimit", f"--fsize={self.file_limit}", "env", "--ignore-signal=XFSZ")

    def _ping(self) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64)
        except OSError:
            return b""


class _Given:
    """The server that the environment names."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, prefix: str) -> str:
        return f"{self._url}?prefix={quote(self.prefix(prefix), safe='')}"

    def prefix(self, prefix: str) -> str:
        return f"troupe-test-{os.getpid()}-{prefix}"


@contextlib.contextmanager
def running(directory: Path, environment: Mapping[str, str] | None = None, **settings: str) -> Iterator[RedisServer]:
    """A server of the test's own; `environment` beside the test's, `settings` are Redis', with underscores."""
    server = RedisServer(directory, environment, **settings)
    try:
        yield server
    finally:
        server.stop()


@cache
def shared() -> RedisServer | _Given:
    """One server for all tests that neither stop nor change it; each has a prefix of its own."""
    if given := os.environ.get(GIVEN_URL):
        return _Given(given)
    directory = Path(tempfile.mkdtemp(prefix="troupe-redis-"))
    server = RedisServer(directory)
    atexit.register(shutil.rmtree, directory)
    atexit.register(server.kill)
    return server


@cache
def _program() -> str:
    found = shutil.which("redis-server")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL: no service is started.
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "-q", "redis-server"]
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(install, env=environment, capture_output=True, timeout=600, check=True)
        found = shutil.which("redis-server")
    if found is None:
        pytest.fail(
            "Redis is not installed, and these tests run against a real one: install the package redis-server (Debian, "
            "Ubuntu)"
        )
    return found
