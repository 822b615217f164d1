"""A clock of a process' own, which a test moves forth and back."""

import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class MovedClock:
    """Of a program that is started with this environment; what it measures spans with is left alone."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.fail("a C compiler is not installed, and the clock that is moved is written in C: install gcc")
        library, self._said = directory / "moved_clock.so", directory / "ahead"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self._said)}
        self._at: float | None = None
        self.move_to(0.0)

    def move_to(self, ahead: float) -> None:
        """So many seconds before the machine's clock; behind it where negative."""
        self._ahead, self._at = ahead, None
        self._say(f"{ahead}")

    def stop_at(self, moment: float) -> None:
        """It stands there until it is moved or stopped again."""
        self._at = moment
        self._say(f"at {moment}")

    def now(self) -> float:
        return time.time() + self._ahead if self._at is None else self._at

    def _say(self, said: str) -> None:
        # Renamed, so that the server reads the one or the other.
        written = self._said.with_suffix(".new")
        written.write_text(said)
        written.replace(self._said)
