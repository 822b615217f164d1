"""Where the fleet is: flags and environment first, then what `troupe up` left in its data directory, then defaults."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from troupe.chassis.data import data_home
from troupe.chassis.errors import FailedPrecondition

DEFAULT_SERVER = "127.0.0.1:7071"
DEFAULT_GATEWAY = "127.0.0.1:7070"
FILE = "endpoints.json"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`host:port` of a control plane and of a worker."""

    server: str = DEFAULT_SERVER
    gateway: str = DEFAULT_GATEWAY


def data_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where `troupe up` keeps its stores unless told otherwise: `TROUPE_DATA`, else `$XDG_DATA_HOME/troupe`."""
    if named := environment.get("TROUPE_DATA"):
        return Path(named)
    return data_home(environment)


def resolve(server: str | None, gateway: str | None, data: Path) -> Endpoints:
    """What was named wins; the rest comes from the data directory's file, then from the defaults."""
    written = read(data) or Endpoints()
    return Endpoints(server or written.server, gateway or written.gateway)


def read(data: Path) -> Endpoints | None:
    """What `troupe up` wrote there; None where it does not run or the file says nothing usable."""
    try:
        content = json.loads((data / FILE).read_text())
        return Endpoints(str(content["server"]), str(content["gateway"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(data: Path, endpoints: Endpoints) -> None:
    """Replace the file at once, so that a reader sees the old one or the new one."""
    path = data / FILE
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(json.dumps({"server": endpoints.server, "gateway": endpoints.gateway}, indent=2) + "\n")
        fresh.replace(path)
    except OSError as error:
        raise FailedPrecondition(
            "DATA_UNWRITABLE", f"cannot write {path} ({error.strerror}); name another directory with --data"
        ) from error


def remove(data: Path) -> None:
    """Take the file away; nothing happens where there is none."""
    with contextlib.suppress(OSError):
        (data / FILE).unlink()
