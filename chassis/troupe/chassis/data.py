"""Where Troupe keeps its data unless told otherwise."""

import os
from collections.abc import Mapping
from pathlib import Path


def data_home(environment: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_DATA_HOME/troupe`, by default `~/.local/share/troupe`."""
    return Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "troupe"
