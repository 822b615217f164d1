"""Terminals in which services run, and what they say there."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support import ports
from support.shell import command, environment

EXAMPLE = Path(__file__).parents[2] / "examples/first-fleet"
FAST = ports.ELSEWHERE | {
    "TROUPE_TTFT": "constant:0.01",
    "TROUPE_PER_TOKEN": "constant:0.002",
    "TROUPE_METRICS_LISTEN": "",
}
SLOW = FAST | {"TROUPE_PER_TOKEN": "constant:0.2"}


class Terminal:
    """A process whose output is in a file."""

    def __init__(self, directory: Path, name: str, arguments: list[str], variables: dict[str, str]) -> None:
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments,
                cwd=directory,
                env=environment(directory, variables | {"PYTHONUNBUFFERED": "1"}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def until(self, said: Callable[[str], bool], within: float = 20.0) -> str:
        """The output once it satisfies `said`."""
        deadline = time.monotonic() + within
        while not said(self.text):
            assert self.process.poll() is None, f"it ended: {self.text}"
            assert time.monotonic() < deadline, f"it only said: {self.text}"
            time.sleep(0.02)
        return self.text

    def ended(self, number: signal.Signals = signal.SIGINT, within: float = 10.0) -> int:
        """Signal it; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(within)


@contextmanager
def terminal(directory: Path, name: str, arguments: list[str], variables: dict[str, str]) -> Iterator[Terminal]:
    opened = Terminal(directory, name, arguments, variables)
    try:
        yield opened
    finally:
        with suppress(ProcessLookupError):
            opened.process.kill()
        opened.process.wait()


@contextmanager
def up(directory: Path, *arguments: str, variables: dict[str, str] | None = None) -> Iterator[Terminal]:
    """`troupe up`, once it serves."""
    given = command("troupe.cli.main", "up", *arguments)
    with terminal(directory, "up", given, FAST if variables is None else variables) as opened:
        opened.until(lambda text: "Ctrl-C stops it." in text)
        yield opened
