"""The world outside: a process that records each call under its idempotency key, on disk before it answers.

Run as `python -m fault.chaos.recorder FILE`; it prints the port on which it serves. A call is answered with the number
of the first call under its key: the same one, however often it is made. One that counts each time is answered with its
own number.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

ADDRESS: Final = "TROUPE_CHAOS_RECORDER"
"""The environment variable that tells actors where it serves."""
START_TIMEOUT: Final = 20.0
CALL_TIMEOUT: Final = 20.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as it was recorded."""

    number: int
    """From 1 on, over all calls."""
    session: str
    key: str
    result: int
    """What it was answered with."""
    once: bool
    """Each call counts: there must be no second one."""
    at: float
    """When it came, in seconds since the epoch."""


async def record(address: str, session: str, key: str, *, once: bool = False) -> int:
    """Call it; the result of this key, or, where calls must be made `once`, of this call. Raises OSError and
    TimeoutError where it is away."""
    async with asyncio.timeout(CALL_TIMEOUT):
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(json.dumps({"session": session, "key": key, "once": once}).encode() + b"\n")
            if not (line := await reader.readline()):
                raise ConnectionError("the recorder hung up")
            return int(line)
        finally:
            writer.close()


def read(file: Path) -> list[Call]:
    """Every call, in order."""
    return [Call(**json.loads(line)) for line in file.read_text().splitlines()]


@contextlib.asynccontextmanager
async def recording(file: Path) -> AsyncIterator[str]:
    """A recorder that writes to this file; its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", __spec__.name, str(file)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT):
            port = int(await process.stdout.readline())
        yield f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass
class _Recorder:
    """Calls that come while others are being written share the next fsync."""

    descriptor: int
    results: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    _unwritten: list[bytes] = field(default_factory=list)
    _written: "asyncio.Future[None] | None" = None
    _writing: "asyncio.Task[None] | None" = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                called = json.loads(line)
                writer.write(b"%d\n" % await self._record(**called))
                await writer.drain()
        writer.close()

    async def _record(self, session: str, key: str, once: bool) -> int:
        self.calls += 1
        result = self.calls if once else self.results.setdefault(key, self.calls)
        call = Call(self.calls, session, key, result, once, time.time())
        self._unwritten.append(json.dumps(asdict(call)).encode() + b"\n")
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        written = self._written
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        # A caller that is killed takes nothing of what others wait for with it.
        await asyncio.shield(written)
        return result

    async def _write(self) -> None:
        while self._unwritten:
            lines, self._unwritten = self._unwritten, []
            written, self._written = self._written, None
            await asyncio.to_thread(self._sync, b"".join(lines))
            if written is not None:
                written.set_result(None)

    def _sync(self, lines: bytes) -> None:
        os.write(self.descriptor, lines)
        os.fsync(self.descriptor)


async def _serve(file: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    server = await asyncio.start_server(_Recorder(descriptor).serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
