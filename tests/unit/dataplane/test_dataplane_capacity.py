"""What a process may use of its machine."""

import os
from pathlib import Path

import pytest

from troupe.dataplane.capacity import capacity, resident


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").write_text("0::/system.slice/worker.service\n")
    return tmp_path / "own"


def limited(group: Path, **limits: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in limits.items():
        (group / name.replace("_", ".")).write_text(text)


def test_without_limits_it_is_the_machine(tmp_path: Path, own: Path) -> None:
    limited(tmp_path / "cgroup/system.slice/worker.service", memory_max="max\n", cpu_max="max 100000\n")
    found = capacity(7, tmp_path / "cgroup", own)
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.max_hot_sessions == 7


def test_the_narrowest_group_around_it_counts(tmp_path: Path, own: Path) -> None:
    limited(tmp_path / "cgroup", memory_max="300000000\n")
    limited(tmp_path / "cgroup/system.slice", memory_max="100000000\n", cpu_max="50000 100000\n")
    limited(tmp_path / "cgroup/system.slice/worker.service", memory_max="200000000\n", cpu_max="max 100000\n")
    found = capacity(1, tmp_path / "cgroup", own)
    assert (found.cpus, found.memory_bytes) == (0.5, 100_000_000)


@pytest.mark.parametrize("text", ["", "1:name=systemd:/x\n", "0::/../elsewhere\n"])
def test_a_group_that_cannot_be_seen_is_passed_over(tmp_path: Path, text: str) -> None:
    limited(tmp_path / "cgroup", memory_max="300000000\n", cpu_max="garbage")
    (tmp_path / "own").write_text(text)
    found = capacity(1, tmp_path / "cgroup", tmp_path / "own")
    assert found.memory_bytes == 300_000_000
    assert capacity(1, tmp_path / "nowhere", tmp_path / "missing").cpus >= 1


def test_what_the_process_has_grows_with_what_it_keeps(tmp_path: Path) -> None:
    before = resident()
    kept = bytes(range(256)) * (1 << 17)
    assert before + len(kept) // 2 < resident() < before + 2 * len(kept)
    assert resident(tmp_path / "none") == 0
