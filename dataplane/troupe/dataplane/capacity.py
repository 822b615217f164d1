"""What this process may use of its machine, as the kernel limits it."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from troupe.v1.status_pb2 import Capacity

CGROUPS: Final = Path("/sys/fs/cgroup")


def capacity(max_hot_sessions: int, cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Capacity:
    """The processors and the memory that a limit of the process's control groups leaves to it, or the machine's own;
    `cgroups` is where version 2 of them is mounted, `own` says in which one the process is."""
    groups = list(_groups(cgroups, own))
    quotas = (_quota(group / "cpu.max") for group in groups)
    limits = (_number(group / "memory.max") for group in groups)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Capacity(
        cpus=min(float(len(os.sched_getaffinity(0))), *quotas, math.inf),
        memory_bytes=int(min(physical, *limits, math.inf)),
        max_hot_sessions=max_hot_sessions,
    )


def resident(own: Path = Path("/proc/self/statm")) -> int:
    """Bytes of memory that this process has, shared pages included; 0 where the kernel does not say."""
    try:
        return int(own.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _groups(cgroups: Path, own: Path) -> Iterator[Path]:
    """The process's group and those around it: each may have a limit. In a container the outermost is its own."""
    yield cgroups
    try:
        (path,) = [line.removeprefix("0::/") for line in own.read_text().splitlines() if line.startswith("0::/")]
    except (OSError, ValueError):
        return
    group = cgroups
    for part in Path(path).parts:
        if part == "..":
            return
        group /= part
        yield group


def _quota(path: Path) -> float:
    """Processors, from `quota period` in microseconds; infinite for `max`, and where there is no limit to read."""
    try:
        quota, period = path.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _number(path: Path) -> float:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return math.inf
