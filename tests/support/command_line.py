"""The `troupe` command as a process of its own, beside servers that run in the test's event loop."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.shell import command, environment


@dataclass(slots=True)
class Typed:
    """One command that runs. `out` and `err` grow while it does."""

    process: asyncio.subprocess.Process
    out: str = ""
    err: str = ""
    _heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, said: str, timeout: float = 20.0) -> None:
        """Wait until it has said this on stdout. Raises AssertionError where it ends before, TimeoutError."""
        async with asyncio.timeout(timeout), self._heard:
            await self._heard.wait_for(lambda: said in self.out or self.process.returncode is not None)
        assert said in self.out, f"it ended: {self.out}{self.err}"

    async def ended(self, timeout: float = 20.0) -> int:
        """Its exit status."""
        async with asyncio.timeout(timeout):
            return await self.process.wait()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    async def read(self, stream: asyncio.StreamReader, keep: Callable[["Typed", str], None]) -> None:
        while piece := await stream.read(4096):
            async with self._heard:
                keep(self, piece.decode())
                self._heard.notify_all()
        async with self._heard:
            self._heard.notify_all()


def _out(typed: Typed, piece: str) -> None:
    typed.out += piece


def _err(typed: Typed, piece: str) -> None:
    typed.err += piece


@contextlib.asynccontextmanager
async def typing(server: str, directory: Path, *arguments: str) -> AsyncIterator[Typed]:
    """Run one command at the control plane `server`; killed where it still runs when the body is left."""
    process = await asyncio.create_subprocess_exec(
        *command("troupe.cli.main", *arguments),
        cwd=directory,
        env=environment(directory, {"TROUPE_SERVER": server, "PYTHONUNBUFFERED": "1"}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    typed = Typed(process)
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.TaskGroup() as group:
        group.create_task(typed.read(process.stdout, _out))
        group.create_task(typed.read(process.stderr, _err))
        try:
            yield typed
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()


async def troupe(server: str, directory: Path, *arguments: str, timeout: float = 30.0) -> Typed:
    """Run one command to its end."""
    async with typing(server, directory, *arguments) as typed:
        await typed.ended(timeout)
    return typed
