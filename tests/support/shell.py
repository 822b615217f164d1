"""Commands of Troupe as a shell runs them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

FOREIGN = ("TROUPE_", "OPENAI_", "XDG_DATA_HOME", "NO_COLOR", "FORCE_COLOR")
"""Variables of this shell that would change what a command does."""


def environment(directory: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """A new user's: nothing is set, and the home directory is `directory`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {"HOME": str(directory)} | dict(more or {})


def command(module: str, *arguments: str) -> list[str]:
    """What runs a module's command line with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def troupe(
    directory: Path, *arguments: str, stdin: str = "", more: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run one `troupe` command to its end, in `directory`."""
    return subprocess.run(
        command("troupe.cli.main", *arguments),
        cwd=directory,
        env=environment(directory, more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
