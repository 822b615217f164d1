"""SQLite behind asyncio, with group commit: writers that wait at the same time share one fsync.

A `Database` has one writer thread and one reader thread. The writer takes every job that waits, runs them in one
transaction and answers them all after its COMMIT (WAL, `synchronous=FULL`), so a job that was answered is durable.

A job is a function of the connection. Each runs in a savepoint of its own: one that raises has written nothing, and
leaves the others of its transaction alone.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import structlog

from troupe.chassis import sqlite_file
from troupe.chassis.errors import TroupeError, Unavailable
from troupe.chassis.outage import Outage
from troupe.chassis.sqlite_file import Schema

__all__ = ["GROUP", "Database", "Schema"]

T = TypeVar("T")

GROUP = 256
"""Jobs in one transaction at most: past that a commit's latency grows more than its cost per job falls."""
SHARING, LOOK = 5.0, 0.02
"""Seconds that opening a shared file waits while another process has it alone, and between two looks."""

log = structlog.get_logger()


class Database:
    """One SQLite file, which belongs to this process, alone or together with others of this host."""

    def __init__(self, path: Path, schema: Schema, lock: int) -> None:
        self.path, self._lock = path, lock
        writer, reader = sqlite_file.connect(path), sqlite_file.connect(path)
        reader.execute("PRAGMA query_only = ON")
        self._writing = Outage("store not written", time.monotonic)
        self._reading = Outage("store not read", time.monotonic)
        self._writer = _Lane(f"{schema.name}-writer", writer, self._commit)
        self._reader = _Lane(f"{schema.name}-reader", reader, self._answer)

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(path: Path, schema: Schema) -> AsyncIterator["Database"]:
        """Open or create the file, for this process alone. Raises FailedPrecondition when another process has it
        (naming its pid), when it is of another schema version or cannot be written, DataLoss when it is no database
        of this kind.

        On exit every job that was handed over is finished. Should the exit be cancelled, they are finished all the
        same, and the file stays locked until then."""
        lock = sqlite_file.lock(path)
        try:
            await asyncio.to_thread(sqlite_file.prepare, path, schema)
            database = Database(path, schema, lock)
        except BaseException:
            os.close(lock)
            raise
        async with database._open():
            yield database

    @staticmethod
    @contextlib.asynccontextmanager
    async def shared(
        path: Path, schema: Schema, alone: Callable[[sqlite3.Connection], object]
    ) -> AsyncIterator["Database"]:
        """Open or create the file, together with other processes of this host that open it in this way. Where none
        has it, `alone` is done first, before any other gets it. A writer that finds another process writing waits for
        it, 5 seconds at most; then its jobs are Unavailable. Raises and exits as `opened`; FailedPrecondition also
        where processes that have it know an older schema only."""
        lock = sqlite_file.lockable(path)
        try:
            await _share(path, lock, lambda: sqlite_file.prepare(path, schema, alone))
            await asyncio.to_thread(sqlite_file.check, path, schema)
            database = Database(path, schema, lock)
        except BaseException:
            os.close(lock)
            raise
        async with database._open():
            yield database

    def write(
        self, job: Callable[[sqlite3.Connection], T], then: Callable[[T], None] | None = None
    ) -> "asyncio.Future[T]":
        """Run `job` in the writer's next transaction; its result once that is durable. What `job` raises is raised
        here, and it has written nothing. Unavailable: SQLite failed, and whether the job was carried out is not
        known. Jobs run in the order of the calls. A job must not begin or end a transaction.

        Cancelling the caller does not take the job back. `then` is called with the result on the event loop, in the
        order of the jobs, whether or not the caller still waits; what it raises is raised here."""
        return self._writer.run(job, then)

    def read(self, job: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """Run `job` on what is committed; its result. It must not write. What it raises is raised here."""
        return self._reader.run(job, None)

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._reader.refuse()
            self._writer.refuse()
            # Shielded: whoever is cancelled here stops waiting, and the file is closed all the same.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._close))

    def _close(self) -> None:
        self._reader.close()
        self._writer.close()
        os.close(self._lock)

    def _commit(self, connection: sqlite3.Connection, jobs: "list[_Job[Any]]") -> None:
        before = connection.total_changes
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                connection.execute("SAVEPOINT job")
                if not job.attempt(connection):
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            for job in jobs:
                job.error = job.error or error
        # A group that had nothing to write says nothing of the disk.
        self._translate(jobs, self._writing, connection.total_changes > before)

    def _answer(self, connection: sqlite3.Connection, jobs: "list[_Job[Any]]") -> None:
        for job in jobs:
            job.attempt(connection)
        self._translate(jobs, self._reading, True)

    def _translate(self, jobs: "list[_Job[Any]]", outage: Outage, proves: bool) -> None:
        """Each job gets an error of its own: one exception that several tasks raise grows with each of them. Where none
        has one and that `proves` it, the outage is over."""
        failed: TroupeError | None = None
        for job in jobs:
            if isinstance(cause := job.error, sqlite3.Error) and (failure := sqlite_file.failure(self.path, cause)):
                failure.__cause__ = cause
                job.error = failed = failure
        if failed is not None:
            outage.failed(failed)
        elif proves:
            outage.over()


async def _share(path: Path, lock: int, alone: Callable[[], None]) -> None:
    for _ in range(round(SHARING / LOOK)):
        # Each time: who had it alone may have died before it was done.
        if sqlite_file.held(path, lock, alone=True):
            await asyncio.to_thread(alone)
        if sqlite_file.held(path, lock, alone=False):
            return
        await asyncio.sleep(LOOK)
    raise sqlite_file.in_use(path, lock)


@dataclass(slots=True)
class _Job(Generic[T]):
    function: Callable[[sqlite3.Connection], T]
    future: "asyncio.Future[T]"
    then: Callable[[T], None] | None
    result: T | None = None
    error: Exception | None = None

    def attempt(self, connection: sqlite3.Connection) -> bool:
        """Whether it ended well. Raises the error at which SQLite gave up the whole transaction, if it did."""
        within = connection.in_transaction
        try:
            self.result = self.function(connection)
        except Exception as error:
            if within and not connection.in_transaction:
                raise
            self.error = error
            return False
        return True

    def settle(self) -> None:
        if self.error is None and self.then is not None:
            try:
                self.then(cast(T, self.result))
            except Exception as error:
                log.exception("what follows a write failed")  # the caller may be gone
                self.error = error
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(cast(T, self.result))
        else:
            self.future.set_exception(self.error)


class _Lane:
    """A thread with a connection, which takes all jobs that wait at once. What bounds its queue is that callers wait
    for what they handed over."""

    def __init__(
        self, name: str, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection, list[_Job[Any]]], None]
    ) -> None:
        self._connection, self._work = connection, work
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._refusing = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[[sqlite3.Connection], T], then: Callable[[T], None] | None) -> "asyncio.Future[T]":
        if self._refusing:
            raise Unavailable("STORE_CLOSED", "the store is closed: the process is stopping")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(function, future, then))
        return future

    def refuse(self) -> None:
        """Take no more jobs. Called on the event loop, as `run` is, so that none can come after the last."""
        self._refusing = True
        self._jobs.put(None)

    def close(self) -> None:
        """After `refuse`: finish what was handed over. Blocks."""
        self._thread.join()
        self._connection.close()

    def _serve(self) -> None:
        open_ = True
        while open_ and (first := self._jobs.get()) is not None:
            jobs = [first]
            with contextlib.suppress(queue.Empty):
                while open_ and len(jobs) < GROUP:
                    job = self._jobs.get_nowait()
                    if job is None:
                        open_ = False
                    else:
                        jobs.append(job)
            self._work(self._connection, jobs)
            with contextlib.suppress(RuntimeError):  # the loop was closed without closing the database
                self._loop.call_soon_threadsafe(_settle, jobs)


def _settle(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        job.settle()
