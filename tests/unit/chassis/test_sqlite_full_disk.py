"""Databases on disks that are full."""

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.databases import SCHEMA, elsewhere, insert, names

from troupe.chassis.errors import FailedPrecondition, Unavailable
from troupe.chassis.sqlite import Database


class TestFullDisk:
    async def test_a_full_disk_is_a_clear_error_and_loses_nothing(self, small_disk: Path) -> None:
        path = small_disk / "test.db"
        ballast = small_disk / "ballast"
        confirmed: list[str] = []
        async with Database.opened(path, SCHEMA) as database:
            ballast.write_bytes(bytes(1_000_000))
            full = await _write_until_full(database, confirmed)
            assert "test.db cannot be used" in str(full)
            assert f"check the disk of {small_disk}" in str(full)
            assert full.retryable
            assert await names(database) == sorted(confirmed)

            ballast.unlink()
            await database.write(insert("room again"))
            confirmed.append("room again")

        async with Database.opened(path, SCHEMA) as database:
            assert await names(database) == sorted(confirmed)

    async def test_a_disk_that_is_full_from_the_start(self, small_disk: Path) -> None:
        with contextlib.suppress(OSError):
            (small_disk / "ballast").write_bytes(bytes(4_000_000))

        with pytest.raises(FailedPrecondition, match=r"cannot write in .*; make room"):
            async with Database.opened(small_disk / "test.db", SCHEMA):
                pass

    def test_a_file_size_limit_is_a_clear_error_and_loses_nothing(self, tmp_path: Path) -> None:
        """As a full disk, without the rights to make one."""
        with elsewhere(_LIMITED, str(tmp_path / "test.db")) as limited:
            told, _ = limited.communicate(timeout=30)
        seen = json.loads(told)

        assert "STORE_UNAVAILABLE" in seen["error"]
        assert seen["confirmed"] > 10
        assert seen["at_the_limit"] == seen["confirmed"]
        assert seen["afterwards"] == seen["reopened"] == seen["confirmed"] + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB, which takes root to make."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here; test_a_file_size_limit stands for it")
    yield where
    subprocess.run(["umount", str(where)], check=True)


async def _write_until_full(database: Database, confirmed: list[str]) -> Unavailable:
    """Write in groups, and record what was confirmed, until something is not."""
    number = 0
    while True:
        names = [f"{number + offset:08}-{'x' * 1000}" for offset in range(8)]
        number += len(names)
        answers = await asyncio.gather(*(database.write(insert(name)) for name in names), return_exceptions=True)
        confirmed += [name for name, answer in zip(names, answers, strict=True) if answer is None]
        for answer in answers:
            if answer is not None:
                assert isinstance(answer, Unavailable)
                return answer


_LIMITED = """
async def main():
    seen = {"confirmed": 0}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with Database.opened(path, SCHEMA) as database:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, unlimited[1]))
        try:
            while True:
                await database.write(insert(f"{seen['confirmed']:01000}"))
                seen["confirmed"] += 1
        except Unavailable as error:
            seen["error"] = f"{error.reason}: {error}"
        seen["at_the_limit"] = await count(database)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        await database.write(insert("room again"))
        seen["afterwards"] = await count(database)
    async with Database.opened(path, SCHEMA) as database:
        seen["reopened"] = await count(database)
    print(json.dumps(seen))

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main())
"""
