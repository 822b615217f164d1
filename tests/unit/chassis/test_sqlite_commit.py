"""The database behind asyncio: group commit, jobs that fail, and its end."""

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import TypeVar

import pytest
from support.databases import SCHEMA, Script, insert, named, names, one_group

from troupe.chassis.errors import Aborted, FailedPrecondition, Unavailable
from troupe.chassis.sqlite import GROUP, Database


class TestCommit:
    async def test_what_was_answered_is_committed(self, database: Database) -> None:
        await database.write(insert("a"))

        assert await names(database) == ["a"]

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

        async with one_group(database):
            writers = [database.write(insert(f"{number:04}")) for number in range(GROUP + 10)]
        await asyncio.gather(*writers)

        assert statements.count("COMMIT") == 3  # the job that made them wait, a full group, and the rest
        assert len(await names(database)) == GROUP + 10

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
            await database.read(insert("a"))


class TestThen:
    async def test_then_is_called_with_the_result_in_the_order_of_the_jobs(self, database: Database) -> None:
        heard: list[str] = []
        names = [f"{number:03}" for number in range(100)]
        async with one_group(database):
            writers = [database.write(named(name), then=heard.append) for name in names]
        await asyncio.gather(*writers)

        assert heard == names

    async def test_then_is_called_after_the_commit_and_before_the_caller_goes_on(self, database: Database) -> None:
        order: list[str] = []

        def then(_: None) -> None:
            with contextlib.closing(sqlite3.connect(database.path)) as other:
                order.extend(name for (name,) in other.execute("SELECT name FROM item"))

        await database.write(insert("committed"), then=then)
        order.append("caller")

        assert order == ["committed", "caller"]

    async def test_a_cancelled_caller_does_not_take_its_job_back(self, database: Database) -> None:
        heard: list[str] = []
        async with one_group(database):
            caller = asyncio.create_task(_awaited(database.write(named("a"), then=heard.append)))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            last = database.write(named("b"), then=heard.append)
        await last

        assert await names(database) == ["a", "b"]
        assert heard == ["a", "b"]

    async def test_what_then_raises_is_raised_in_its_caller_only(self, database: Database) -> None:
        def broken(_: str) -> None:
            raise ZeroDivisionError

        async with one_group(database):
            one, other = database.write(named("a"), then=broken), database.write(named("b"))

        with pytest.raises(ZeroDivisionError):
            await one
        assert await other == "b"
        assert await names(database) == ["a", "b"]


class TestJobsThatRaise:
    @pytest.mark.parametrize("error", [Aborted("CONFLICT", "somebody else was faster"), ValueError("a defect")])
    @pytest.mark.parametrize("wrote", [False, True])
    async def test_a_job_that_raises_has_written_nothing_and_leaves_the_others_alone(
        self, database: Database, error: Exception, wrote: bool
    ) -> None:
        def failing(connection: sqlite3.Connection) -> None:
            if wrote:
                insert("half")(connection)
            raise error

        statements: list[str] = []
        async with one_group(database):
            before, wrong, after = database.write(insert("a")), database.write(failing), database.write(insert("b"))
            trace = database.write(lambda connection: connection.set_trace_callback(statements.append))
        await asyncio.gather(before, after, trace)

        with pytest.raises(type(error), match=str(error)):
            await wrong
        assert await names(database) == ["a", "b"]
        assert statements.count("COMMIT") == 1

    async def test_a_constraint_costs_only_the_job_that_broke_it(self, database: Database) -> None:
        async with one_group(database):
            writers = [database.write(insert(name)) for name in ("a", "a", "b")]
        answers = await asyncio.gather(*writers, return_exceptions=True)

        assert [type(answer) for answer in answers] == [type(None), sqlite3.IntegrityError, type(None)]
        assert await names(database) == ["a", "b"]

    async def test_a_job_that_meddles_with_its_transaction_does_not_stop_what_comes_after(
        self, database: Database
    ) -> None:
        def meddling(connection: sqlite3.Connection) -> None:
            insert("half")(connection)
            connection.execute("RELEASE job")

        with pytest.raises(sqlite3.OperationalError, match="no such savepoint"):
            await database.write(meddling)

        await database.write(insert("a"))
        assert await names(database) == ["a"]

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
            writers = [database.write(insert(f"{number}")) for number in range(100)]

        assert [writer.done() for writer in writers] == [True] * 100
        async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
            assert len(await names(database)) == 100

    async def test_after_exit_nothing_is_taken(self, tmp_path: Path) -> None:
        async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
            pass

        with pytest.raises(Unavailable, match="the store is closed"):
            await database.write(insert("a"))
        with pytest.raises(Unavailable, match="the store is closed"):
            await database.read(lambda _: 1)

    async def test_a_cancelled_exit_keeps_the_file_until_all_is_written(self, tmp_path: Path) -> None:
        enough, closing = threading.Event(), asyncio.Event()

        async def body() -> None:
            async with Database.opened(tmp_path / "test.db", SCHEMA) as database:
                database.write(lambda _: enough.wait(20))
                database.write(insert("late"))
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


async def _opened_when_free(path: Path) -> list[str]:
    while True:
        try:
            async with Database.opened(path, SCHEMA) as database:
                return await names(database)
        except FailedPrecondition:
            await asyncio.sleep(0.005)


T = TypeVar("T")


async def _awaited(future: "asyncio.Future[T]") -> None:
    await future
