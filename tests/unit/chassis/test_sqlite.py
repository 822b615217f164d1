"""The database behind asyncio: group commit, jobs that fail, files that cannot be used, disks that are full."""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from troupe.chassis.errors import Aborted, DataLoss, FailedPrecondition, Unavailable
from troupe.chassis.sqlite import GROUP, Database, Schema

SCHEMA = Schema("test", 1, ("CREATE TABLE item (name TEXT NOT NULL UNIQUE, value INTEGER NOT NULL)",))
T = TypeVar("T")
Script = Callable[[sqlite3.Connection], None]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.opened(tmp_path / "test.db", SCHEMA) as opened:
        yield opened


def _insert(name: str, value: int = 0) -> Script:
    def script(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO item (name, value) VALUES (?, ?)", (name, value))

    return script


async def _names(database: Database) -> list[str]:
    rows = await database.read(lambda connection: connection.execute("SELECT name FROM item ORDER BY name").fetchall())
    return [name for (name,) in rows]


@contextlib.asynccontextmanager
async def _one_group(database: Database) -> AsyncIterator[None]:
    """What is written within waits for the writer until the end, so that it goes into one transaction."""
    begun, enough = threading.Event(), threading.Event()

    def keep_busy(_: sqlite3.Connection) -> None:
        begun.set()
        enough.wait(20)

    busy = database.write(keep_busy)
    await asyncio.to_thread(begun.wait, 20)
    try:
        yield
    finally:
        enough.set()
        await busy


class TestCommit:
    async def test_what_was_answered_is_committed(self, database: Database) -> None:
        await database.write(_insert("a"))

        assert await _names(database) == ["a"]

    async def test_every_commit_waits_for_the_disk(self, database: Database) -> None:
        def pragmas(connection: sqlite3.Connection) -> tuple[str, int]:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
            return mode, synchronous

        full = 2
        assert await database.write(pragmas) == ("wal", full)

    async def test_writers_that_wait_at_the_same_time_share_a_commit(self, database: Database) -> None:
        statements: list[str] = []
        await database.write(lambda connection: connection.set_trace_callback(statements.append))
        statements.clear()

        async with _one_group(database):
            writers = [database.write(_insert(f"{number:04}")) for number in range(GROUP + 10)]
        await asyncio.gather(*writers)

        assert statements.count("COMMIT") == 3  # the job that made them wait, a full group, and the rest
        assert len(await _names(database)) == GROUP + 10

    async def test_jobs_run_in_the_order_of_the_calls(self, database: Database) -> None:
        def script(number: int) -> Script:
            return lambda _: ran.append(number)

        ran: list[int] = []
        await asyncio.gather(*(database.write(script(number)) for number in range(500)))

        assert ran == list(range(500))

    async def test_a_result_comes_back(self, database: Database) -> None:
        assert await database.write(lambda _: 42) == 42
        assert await database.read(lambda _: 43) == 43

    async def test_a_read_may_not_write(self, database: Database) -> None:
        with pytest.raises(Unavailable, match="readonly"):
            await database.read(_insert("a"))


class TestThen:
    async def test_then_is_called_with_the_result_in_the_order_of_the_jobs(self, database: Database) -> None:
        heard: list[str] = []
        names = [f"{number:03}" for number in range(100)]
        async with _one_group(database):
            writers = [database.write(_named(name), then=heard.append) for name in names]
        await asyncio.gather(*writers)

        assert heard == names

    async def test_then_is_called_after_the_commit_and_before_the_caller_goes_on(self, database: Database) -> None:
        order: list[str] = []

        def then(_: None) -> None:
            with contextlib.closing(sqlite3.connect(database.path)) as other:
                order.extend(name for (name,) in other.execute("SELECT name FROM item"))

        await database.write(_insert("committed"), then=then)
        order.append("caller")

        assert order == ["committed", "caller"]

    async def test_a_cancelled_caller_does_not_take_its_job_back(self, database: Database) -> None:
        heard: list[str] = []
        async with _one_group(database):
            caller = asyncio.create_task(_awaited(database.write(_named("a"), then=heard.append)))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            last = database.write(_named("b"), then=heard.append)
        await last

        assert await _names(database) == ["a", "b"]
        assert heard == ["a", "b"]

    async def test_what_then_raises_is_raised_in_its_caller_only(self, database: Database) -> None:
        def broken(_: str) -> None:
            raise ZeroDivisionError

        async with _one_group(database):
            one, other = database.write(_named("a"), then=broken), database.write(_named("b"))

        with pytest.raises(ZeroDivisionError):
            await one
        assert await other == "b"
        assert await _names(database) == ["a", "b"]


class TestJobsThatRaise:
    @pytest.mark.parametrize("error", [Aborted("CONFLICT", "somebody else was faster"), ValueError("a defect")])
    @pytest.mark.parametrize("wrote", [False, True])
    async def test_a_job_that_raises_has_written_nothing_and_leaves_the_others_alone(
        self, database: Database, error: Exception, wrote: bool
    ) -> None:
        def failing(connection: sqlite3.Connection) -> None:
            if wrote:
                _insert("half")(connection)
            raise error

        statements: list[str] = []
        async with _one_group(database):
            before, wrong, after = database.write(_insert("a")), database.write(failing), database.write(_insert("b"))
            trace = database.write(lambda connection: connection.set_trace_callback(statements.append))
        await asyncio.gather(before, after, trace)

        with pytest.raises(type(error), match=str(error)):
            await wrong
        assert await _names(database) == ["a", "b"]
        assert statements.count("COMMIT") == 1

    async def test_a_constraint_costs_only_the_job_that_broke_it(self, database: Database) -> None:
        async with _one_group(database):
            writers = [database.write(_insert(name)) for name in ("a", "a", "b")]
        answers = await asyncio.gather(*writers, return_exceptions=True)

        assert [type(answer) for answer in answers] == [type(None), sqlite3.IntegrityError, type(None)]
        assert await _names(database) == ["a", "b"]

    async def test_a_job_that_meddles_with_its_transaction_does_not_stop_what_comes_after(
        self, database: Database
    ) -> None:
        def meddling(connection: sqlite3.Connection) -> None:
            _insert("half")(connection)
            connection.execute("RELEASE job")

        with pytest.raises(sqlite3.OperationalError, match="no such savepoint"):
            await database.write(meddling)

        await database.write(_insert("a"))
        assert await _names(database) == ["a"]

    async def test_a_wrong_statement_is_a_defect_and_no_trouble_with_the_disk(self, database: Database) -> None:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await database.read(lambda connection: connection.execute("SELECT * FROM nowhere"))

    async def test_a_reader_that_raises_leaves_the_others_alone(self, database: Database) -> None:
        def failing(_: sqlite3.Connection) -> None:
            raise ValueError("a defect")

        wrong, right = database.read(failing), database.read(lambda _: 1)

        with pytest.raises(ValueError, match="a defect"):
            await wrong
        assert await right == 1


class TestClosing:
    async def test_on_exit_what_was_handed_over_is_finished(self, tmp_path: Path) -> None:
        async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
            writers = [database.write(_insert(f"{number}")) for number in range(100)]

        assert [writer.done() for writer in writers] == [True] * 100
        async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
            assert len(await _names(database)) == 100

    async def test_after_exit_nothing_is_taken(self, tmp_path: Path) -> None:
        async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
            pass

        with pytest.raises(Unavailable, match="the store is closed"):
            await database.write(_insert("a"))
        with pytest.raises(Unavailable, match="the store is closed"):
            await database.read(lambda _: 1)

    async def test_a_cancelled_exit_keeps_the_file_until_all_is_written(self, tmp_path: Path) -> None:
        enough, closing = threading.Event(), asyncio.Event()

        async def body() -> None:
            async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
                database.write(lambda _: enough.wait(20))
                database.write(_insert("late"))
                closing.set()

        task = asyncio.create_task(body())
        await closing.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        with pytest.raises(FailedPrecondition, match="is in use by process"):
            async with Database.opened(tmp_path / "test.db", SCHEMA):
                pass
        enough.set()
        async with asyncio.timeout(20):
            database = await _opened_when_free(tmp_path / "test.db")
            assert database == ["late"]


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
            await database.write(_insert("a"))

        message = await self._refused(path)

        assert message.startswith("DATA_NEWER")
        assert "has schema 3 and this troupe knows 1" in message
        async with Database.opened(path, Schema("test", 3, SCHEMA.statements)) as database:
            assert await _names(database) == ["a"]

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
                database.write(_insert(f"{number:0100}"))
        content = path.read_bytes()
        path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))

        async with Database.opened(path, SCHEMA) as database:
            with pytest.raises(DataLoss, match="restore a backup"):
                await _names(database)

    async def test_an_empty_file_becomes_a_database(self, tmp_path: Path) -> None:
        (tmp_path / "test.db").touch()

        async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
            await database.write(_insert("a"))

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
            await database.write(_insert("a"))


class TestOneProcess:
    async def test_a_second_process_is_refused_and_told_the_first_ones_pid(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        with _running(_HOLD, str(path)) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"

            with pytest.raises(FailedPrecondition, match=f"in use by process {holder.pid};") as refused:
                async with Database.opened(path, SCHEMA):
                    pass
            assert refused.value.reason == "DATA_IN_USE"

            holder.kill()
            holder.wait()
            async with Database.opened(path, SCHEMA) as database:
                assert await _names(database) == ["from the holder"]

    async def test_a_second_opening_in_this_process_is_refused_too(self, tmp_path: Path, database: Database) -> None:
        with pytest.raises(FailedPrecondition, match=f"in use by process {os.getpid()};"):
            async with Database.opened(tmp_path / "test.db", SCHEMA):
                pass

    async def test_two_files_in_one_directory_have_two_owners(self, tmp_path: Path, database: Database) -> None:
        async with Database.opened(tmp_path / "other.db", SCHEMA) as other:
            await other.write(_insert("a"))


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
            assert await _names(database) == sorted(confirmed)

            ballast.unlink()
            await database.write(_insert("room again"))
            confirmed.append("room again")

        async with Database.opened(path, SCHEMA) as database:
            assert await _names(database) == sorted(confirmed)

    async def test_a_disk_that_is_full_from_the_start(self, small_disk: Path) -> None:
        with contextlib.suppress(OSError):
            (small_disk / "ballast").write_bytes(bytes(4_000_000))

        with pytest.raises(FailedPrecondition, match=r"cannot write in .*; make room"):
            async with Database.opened(small_disk / "test.db", SCHEMA):
                pass

    def test_a_file_size_limit_is_a_clear_error_and_loses_nothing(self, tmp_path: Path) -> None:
        """As a full disk, without the rights to make one."""
        with _running(_LIMITED, str(tmp_path / "test.db")) as limited:
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
        answers = await asyncio.gather(*(database.write(_insert(name)) for name in names), return_exceptions=True)
        confirmed += [name for name, answer in zip(names, answers, strict=True) if answer is None]
        for answer in answers:
            if answer is not None:
                assert isinstance(answer, Unavailable)
                return answer


async def _opened_when_free(path: Path) -> list[str]:
    while True:
        try:
            async with Database.opened(path, SCHEMA) as database:
                return await _names(database)
        except FailedPrecondition:
            await asyncio.sleep(0.005)


def _named(name: str) -> Callable[[sqlite3.Connection], str]:
    def script(connection: sqlite3.Connection) -> str:
        _insert(name)(connection)
        return name

    return script


async def _awaited(future: "asyncio.Future[T]") -> None:
    await future


@contextlib.contextmanager
def _running(program: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", _PREAMBLE + program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


_PREAMBLE = """
import asyncio, json, resource, sys
from pathlib import Path
import structlog
from troupe.chassis.errors import Unavailable
from troupe.chassis.sqlite import Database, Schema

SCHEMA = Schema("test", 1, ("CREATE TABLE item (name TEXT NOT NULL UNIQUE, value INTEGER NOT NULL)",))
path = Path(sys.argv[1])

def insert(name):
    return lambda connection: connection.execute("INSERT INTO item (name, value) VALUES (?, 0)", (name,)).rowcount

async def count(database):
    return await database.read(lambda connection: connection.execute("SELECT count(*) FROM item").fetchone()[0])
"""

_HOLD = """
async def main():
    async with Database.opened(path, SCHEMA) as database:
        await database.write(insert("from the holder"))
        print("open", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""

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
