"""Files that are no database of this process: somebody else's, broken, or in use."""

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest
from support.databases import SCHEMA, elsewhere, insert, names

from troupe.chassis.errors import DataLoss, FailedPrecondition
from troupe.chassis.sqlite import Database, Schema


class TestFilesThatCannotBeUsed:
    async def _refused(self, path: Path, schema: Schema = SCHEMA) -> str:
        with pytest.raises((FailedPrecondition, DataLoss)) as refused:
            async with Database.opened(path, schema):
                pass
        assert "\n" not in str(refused.value)
        assert not refused.value.retryable
        return f"{refused.value.reason}: {refused.value}"

    async def test_a_newer_schema_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        async with Database.opened(path, Schema("test", 3, SCHEMA.statements)) as database:
            await database.write(insert("a"))

        message = await self._refused(path)

        assert message.startswith("DATA_NEWER")
        assert "has schema 3 and this troupe knows 1" in message
        async with Database.opened(path, Schema("test", 3, SCHEMA.statements)) as database:
            assert await names(database) == ["a"]

    async def test_an_older_schema_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        async with Database.opened(path, SCHEMA):
            pass

        assert (await self._refused(path, Schema("test", 2, SCHEMA.statements))).startswith("DATA_OLDER")

    async def test_the_file_of_another_store_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        async with Database.opened(path, SCHEMA):
            pass

        assert "is no other store of troupe" in await self._refused(path, Schema("other", 1, ("CREATE TABLE t (x)",)))

    async def test_somebodys_own_database_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        with contextlib.closing(sqlite3.connect(path)) as mine:
            mine.execute("CREATE TABLE mine (x)")

        assert (await self._refused(path)).startswith("DATA_BROKEN")

    async def test_garbage_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        path.write_bytes(b"this is no database" * 1000)

        message = await self._refused(path)

        assert message.startswith("DATA_BROKEN")
        assert str(path) in message
        assert path.read_bytes() == b"this is no database" * 1000

    async def test_a_file_that_breaks_in_use_is_lost_data_and_no_trouble_with_the_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        async with Database.opened(path, SCHEMA) as database:
            for number in range(2_000):
                database.write(insert(f"{number:0100}"))
        content = path.read_bytes()
        path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))

        async with Database.opened(path, SCHEMA) as database:
            with pytest.raises(DataLoss, match="restore a backup"):
                await names(database)

    async def test_an_empty_file_becomes_a_database(self, tmp_path: Path) -> None:
        (tmp_path / "test.db").touch()

        async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
            await database.write(insert("a"))

    async def test_a_file_in_place_of_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("")

        message = await self._refused(tmp_path / "data" / "test.db")

        assert message.startswith("DATA_UNWRITABLE")
        assert f"cannot write in {tmp_path}/data" in message
        assert "--data" in message

    async def test_a_directory_in_place_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "test.db").mkdir()

        assert (await self._refused(tmp_path / "test.db")).startswith("DATA_UNWRITABLE")

    async def test_missing_directories_are_made(self, tmp_path: Path) -> None:
        async with Database.opened(tmp_path / "a" / "b" / "test.db", SCHEMA) as database:
            await database.write(insert("a"))


class TestOneProcess:
    async def test_a_second_process_is_refused_and_told_the_first_ones_pid(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        with elsewhere(_HOLD, str(path)) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"

            with pytest.raises(FailedPrecondition, match=f"in use by process {holder.pid};") as refused:
                async with Database.opened(path, SCHEMA):
                    pass
            assert refused.value.reason == "DATA_IN_USE"

            holder.kill()
            holder.wait()
            async with Database.opened(path, SCHEMA) as database:
                assert await names(database) == ["from the holder"]

    async def test_a_second_opening_in_this_process_is_refused_too(self, tmp_path: Path, database: Database) -> None:
        with pytest.raises(FailedPrecondition, match=f"in use by process {os.getpid()};"):
            async with Database.opened(tmp_path / "test.db", SCHEMA):
                pass

    async def test_two_files_in_one_directory_have_two_owners(self, tmp_path: Path, database: Database) -> None:
        async with Database.opened(tmp_path / "other.db", SCHEMA) as other:
            await other.write(insert("a"))


_HOLD = """
async def main():
    async with Database.opened(path, SCHEMA) as database:
        await database.write(insert("from the holder"))
        print("open", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
