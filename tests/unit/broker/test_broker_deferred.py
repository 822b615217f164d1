"""Messages that were put off and could not be brought back are brought back later."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from troupe.broker import sqlite_deferred
from troupe.broker.queue import Stored
from troupe.broker.sqlite_deferred import Deferred
from troupe.broker.sqlite_schema import SCHEMA
from troupe.chassis.clock import SystemClock
from troupe.chassis.errors import Unavailable
from troupe.chassis.sqlite import Database


class _FullDisk:
    """A Database that fails its next `failures` writes."""

    def __init__(self, database: Database) -> None:
        self._database, self.failures = database, 0

    def write(
        self, job: Callable[[sqlite3.Connection], Any], then: Callable[[Any], None] | None = None
    ) -> "asyncio.Future[Any]":
        if self.failures == 0:
            return self._database.write(job, then)
        self.failures -= 1
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(Unavailable("STORE_UNAVAILABLE", "the disk is full"))
        return failed


async def test_a_disk_that_is_full_for_a_while_only_delays_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_deferred, "RETRY_DELAY", 0.01)
    back: list[tuple[int, bytes]] = []
    came = asyncio.Event()

    def come_back(queue: int, message: Stored) -> None:
        back.append((queue, message.body))
        came.set()

    async with Database.opened(tmp_path / "broker.db", SCHEMA) as database:
        disk = _FullDisk(database)
        deferred = Deferred(cast(Database, disk), SystemClock(), come_back)
        await deferred.put(7, 0.0, b"task")
        disk.failures = 3

        async with asyncio.timeout(10):
            await came.wait()

        assert back == [(7, b"task")]
        assert disk.failures == 0
        deferred.shut()


async def test_more_than_one_transaction_takes_come_back_in_the_order_of_their_time(tmp_path: Path) -> None:
    back: list[bytes] = []
    count = 2 * sqlite_deferred.TOGETHER + 1
    everything = asyncio.Event()

    def come_back(_: int, message: Stored) -> None:
        back.append(message.body)
        if len(back) == count:
            everything.set()

    async with Database.opened(tmp_path / "broker.db", SCHEMA) as database:
        deferred = Deferred(database, SystemClock(), come_back)
        for number in range(count):
            database.write(_put(float(count - number), str(number)))
        deferred.look()

        async with asyncio.timeout(10):
            await everything.wait()

        assert back == [str(number).encode() for number in reversed(range(count))]
        deferred.shut()


def _put(due: float, body: str) -> Callable[[sqlite3.Connection], object]:
    return lambda connection: (
        connection.execute("INSERT INTO deferred (queue, due, body) VALUES (1, ?, ?)", (due, body.encode())).rowcount
    )
