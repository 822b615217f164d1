"""A state store in a file whose disk is full: a clear error, nothing half written, and on again when there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import waiting_turns
from support.waiting_turns import SESSIONS, check

from troupe.chassis.errors import Unavailable
from troupe.dataplane.state.connect import connected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, which takes root to make."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here; what the database does then is tried with a limit on files")
    yield where
    subprocess.run(["umount", str(where)], check=True)


async def test_a_full_disk_is_said_and_all_goes_on_with_room(small_disk: Path) -> None:
    url, told = f"sqlite:///{small_disk / 'state.db'}", dict[str, int]()
    ballast = small_disk / "ballast"

    for epoch in (1, 2):
        # When turns of all kinds go on until the disk is full
        ballast.write_bytes(bytes(1_000_000))
        with pytest.raises(ExceptionGroup) as stopped:
            await waiting_turns.drive(url, epoch, told.__setitem__)

        # Then it is said that it is, and where
        full, others = stopped.value.split(Unavailable)
        assert others is None
        assert full is not None
        said = str(full.exceptions[0])
        assert "state.db cannot be used (database or disk is full)" in said
        assert f"check the disk of {small_disk}" in said

        # and with room again, what was committed is there, nothing else by half, and the next go on from there
        ballast.unlink()
        async with connected(url) as store:
            await store.declare(1)
            for key in SESSIONS:
                told[key.session] = await check(store, epoch, key, told.get(key.session, 0))
        assert len(told) == len(SESSIONS)
        assert all(told.values())
