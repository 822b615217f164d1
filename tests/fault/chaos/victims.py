"""What the storm can befall, and how: processes, servers and lines. Each suffers one thing at a time, and stands again
when `suffer` returns."""

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from fault.chaos.schedule import Fault, What
from support import proxy
from support.lines import spoil

KILLED: Final = re.compile(r"^killed at the fault point (.*)$", re.MULTILINE)
TRIES: Final = 60
AGAIN: Final = 0.3
"""Seconds until a process that ended while it started is started again."""


class Victim(Protocol):
    """One of them."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str:
        """What it is counted with."""
        ...

    async def suffer(self, fault: Fault) -> None:
        """Returns once it stands again, as far as it can tell."""
        ...

    async def died_by_itself(self, within: float) -> str | None:
        """Why; None when so many seconds have passed without that."""
        ...

    async def start(self) -> None:
        """It stands again, after it died by itself."""
        ...

    async def heal(self) -> None:
        """Nothing is the matter with it any more, and nothing will be."""
        ...


class Running(Protocol):
    """A process that can be sent signals and waited for."""

    @property
    def returncode(self) -> int | None: ...

    def send_signal(self, signal: int) -> None: ...

    async def wait(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Started:
    """A process that serves, and where it says what happens to it."""

    running: Running
    log: Path


Begin = Callable[[str], Awaitable[Started]]


@dataclass
class ProcessVictim:
    """A process of the product. `begin` starts a new one, with these fault points, and returns when it serves; `points`
    has those for each."""

    name: str
    group: str
    begin: Begin
    points: Iterator[str]
    armed: str = ""
    started: Started | None = None
    _healed: bool = False

    async def start(self) -> None:
        """A new process of it. One that comes by a fault point before it serves, or ends because what it needs is away,
        is started again, as whatever looks after processes does."""
        for _ in range(TRIES):
            self.armed = "" if self._healed else next(self.points)
            try:
                self.started = await self.begin(self.armed)
            except ProcessEnded as ended:
                last = ended
                await asyncio.sleep(AGAIN)
            else:
                return
        raise last

    async def suffer(self, fault: Fault) -> None:
        running = self._must_run()
        if fault.what is What.FREEZE:
            _send(running, signal.SIGSTOP)
            await asyncio.sleep(fault.lasts)
            _send(running, signal.SIGCONT)
            return
        _send(running, signal.SIGKILL)
        await running.wait()
        await asyncio.sleep(fault.lasts)
        await self.start()

    async def died_by_itself(self, within: float) -> str | None:
        running = self._must_run()
        try:
            async with asyncio.timeout(within):
                status = await running.wait()
        except TimeoutError:
            return None
        if status != -signal.SIGKILL:
            raise ProcessEnded(self.name, status)
        assert self.started is not None
        found = KILLED.findall(self.started.log.read_text(errors="replace"))
        return found[-1] if found else f"of {self.armed}"

    async def heal(self) -> None:
        """It runs, and no fault point of it is armed."""
        self._healed = True
        if self.armed:
            _send(self._must_run(), signal.SIGKILL)
            await self._must_run().wait()
        if self._must_run().returncode is not None:
            await self.start()

    def _must_run(self) -> Running:
        assert self.started is not None, f"{self.name} was not started"
        return self.started.running


class ProcessEnded(Exception):
    """A process ended otherwise than it was told to."""

    def __init__(self, name: str, status: int | None, said: str = "") -> None:
        super().__init__(f"{name} ended with status {status}: {said}")
        self.status = status


@dataclass
class ServerVictim:
    """A server of others: its methods block, and it serves when `start` returns."""

    name: str
    kill: Callable[[], None]
    serve: Callable[[], None]
    freeze: Callable[[], None]
    thaw: Callable[[], None]

    @property
    def group(self) -> str:
        return self.name

    async def suffer(self, fault: Fault) -> None:
        if fault.what is What.FREEZE:
            self.freeze()
            await asyncio.sleep(fault.lasts)
            self.thaw()
            return
        await asyncio.to_thread(self.kill)
        await asyncio.sleep(fault.lasts)
        await self.start()

    async def died_by_itself(self, within: float) -> str | None:
        await asyncio.sleep(within)
        return None

    async def start(self) -> None:
        await asyncio.to_thread(self.serve)

    async def heal(self) -> None:
        pass


@dataclass
class LinesVictim:
    """The lines of a worker to the others."""

    name: str
    lines: dict[str, proxy.Proxy] = field(default_factory=dict)
    group: str = "lines"

    async def suffer(self, fault: Fault) -> None:
        line = self.lines[fault.line]
        if fault.what is What.CUT:
            line.cut()
            return
        spoil(line, fault.what)
        await asyncio.sleep(fault.lasts)
        line.heal()

    async def died_by_itself(self, within: float) -> str | None:
        await asyncio.sleep(within)
        return None

    async def start(self) -> None:
        pass

    async def heal(self) -> None:
        for line in self.lines.values():
            line.heal()


def _send(running: Running, number: int) -> None:
    if running.returncode is None:
        running.send_signal(number)
