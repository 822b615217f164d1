"""The text of manifests: from a file, a directory's files, or stdin."""

import sys
from collections.abc import Sequence
from pathlib import Path

from troupe.chassis.errors import InvalidArgument

STDIN = "-"
SUFFIXES = (".yaml", ".yml", ".json")


def read(names: Sequence[str]) -> list[tuple[str, bytes]]:
    """(name, content) of each file. A directory stands for its own *.yaml, *.yml and *.json, sorted by name; `-` for
    stdin. Raises InvalidArgument where one cannot be read or a directory holds none."""
    return [found for name in names for found in _read(name)]


def _read(name: str) -> list[tuple[str, bytes]]:
    if name == STDIN:
        return [("stdin", sys.stdin.buffer.read())]
    path = Path(name)
    try:
        if not path.is_dir():
            return [(name, path.read_bytes())]
        files = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and one.is_file())
        if not files:
            raise InvalidArgument("NO_MANIFESTS", f"{name} holds no manifests; name a directory with *.yaml files")
        return [(str(one), one.read_bytes()) for one in files]
    except FileNotFoundError as error:
        raise InvalidArgument("NO_FILE", f"no file or directory {name}; check the path") from error
    except OSError as error:
        raise InvalidArgument("UNREADABLE", f"cannot read {error.filename or name}: {error.strerror}") from error
