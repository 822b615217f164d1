"""A disk of a few megabytes that a test fills, and makes room on again."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class SmallDisk:
    """What is below `path` shares its room."""

    path: Path

    def fill(self) -> None:
        """Leave room for nothing."""
        with (self.path / "ballast").open("wb", buffering=0) as ballast:
            for size in (1 << 16, 1 << 10, 1):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def empty(self) -> None:
        """Make room again."""
        (self.path / "ballast").unlink()


@contextlib.contextmanager
def small_disk(where: Path, megabytes: int) -> Iterator[SmallDisk | None]:
    """None where it cannot be mounted, which takes root."""
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield SmallDisk(where)
    finally:
        subprocess.run(["umount", str(where)], check=True)
