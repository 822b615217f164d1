"""The same people over the embedded broker: one process on one SQLite file, which is killed, and whose writes fail."""

import asyncio
import contextlib
import itertools
import random
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any
from unittest import mock

from fault.simulation_queues.history import History
from fault.simulation_queues.network import Host
from fault.simulation_queues.people import ALWAYS, POOLS, Keeper, Moment, Sender, Task, Worker, kept
from support.mailboxes import message

from troupe.broker import sqlite_box
from troupe.broker.sqlite import SqliteBroker
from troupe.broker.sqlite_schema import SCHEMA
from troupe.chassis.errors import TroupeError, Unavailable

Job = tuple[Callable[[sqlite3.Connection], Any], Callable[[Any], None] | None, "asyncio.Future[Any]"]
CALM = 120.0
"""Seconds within which everything has come to its end once nothing new happens."""
WINDOW = 4
"""Messages of a queue that wait in memory, in place of 64."""


class File:
    """A real SQLite database, which outlives those who have it open. After each commit the history is told what came
    and what went."""

    def __init__(self, history: History) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        for statement in SCHEMA.statements:
            self.connection.execute(statement)
        self._history = history
        self.rows: dict[tuple[str, int], tuple[bytes, str]] = {}
        """Bodies and where they are, by table and id."""

    def look(self) -> None:
        found: dict[tuple[str, int], tuple[bytes, str]] = {}
        for table, queue in (
            ("message", "(SELECT name FROM queue WHERE queue.id = message.queue)"),
            ("deferred", "'.delay.'"),
            ("dead_letter", "'.dlq.'"),
        ):
            for id_, body, name in self.connection.execute(f"SELECT id, body, {queue} FROM {table}"):
                found[table, id_] = (body, name)
        before, self.rows = self.rows, found
        for key in found.keys() - before.keys():
            self._history.stored(*found[key])
        for key in before.keys() - found.keys():
            self._history.gone(*before[key])


class Opened:
    """`troupe.chassis.sqlite.Database` without threads: jobs that wait are committed together, a little later, where
    the disk is not full; of a process that is dead by then the last ones may be, or not."""

    def __init__(self, file: File, dice: random.Random, fails: Callable[[], float]) -> None:
        self._file, self._dice, self._fails = file, dice, fails
        self._jobs: deque[Job] = deque()
        self._committing = False
        self.dead = False

    def write(
        self, job: Callable[[sqlite3.Connection], Any], then: Callable[[Any], None] | None = None
    ) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.dead:
            self._jobs.append((job, then, future))
        if not (self._committing or self.dead):
            self._committing = True
            asyncio.get_running_loop().call_later(self._dice.uniform(0.001, 0.02), self._commit)
        return future

    def read(self, job: Callable[[sqlite3.Connection], Any]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(
            self._dice.uniform(0.0, 0.005), lambda: self._answer(future, None, job(self._file.connection))
        )
        return future

    def _commit(self) -> None:
        jobs, self._committing = list(self._jobs), False
        self._jobs.clear()
        if self.dead and self._dice.random() < 0.5:
            return
        results: list[Any]
        if self._dice.random() < self._fails():
            results = [Unavailable("STORE_FULL", "the disk is full") for _ in jobs]
        else:
            self._file.connection.execute("BEGIN")
            results = [job(self._file.connection) for job, _, _ in jobs]
            self._file.connection.execute("COMMIT")
            self._file.look()
        for (_, then, future), result in zip(jobs, results, strict=True):
            self._answer(future, then, result)

    def _answer(self, future: "asyncio.Future[Any]", then: Callable[[Any], None] | None, result: Any) -> None:
        if self.dead:
            return
        if isinstance(result, TroupeError):
            if not future.done():
                future.set_exception(result)
            return
        if then is not None:
            then(result)
        if not future.done():
            future.set_result(result)


class EmbeddedWorld:
    """`run` it inside a virtual loop."""

    def __init__(self, seed: int, history: History) -> None:
        self.dice, self.history = random.Random(seed), history
        self.file = File(history)
        self._ids = itertools.count(1)
        self._host = Host("process")
        self._database: Opened | None = None
        self._failing = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self.tasks: dict[str, Task] = {}
        self._book = [self._task(number) for number in range(1, self.dice.randint(10, 40))]

    async def run(self) -> None:
        with mock.patch.object(sqlite_box, "WINDOW", WINDOW):
            await self._befalls()

    async def _befalls(self) -> None:
        self._starts()
        for _ in range(self.dice.choice((0, 3, 8))):
            await asyncio.sleep(self.dice.choice((0.3, 2.0, 6.0)) * self.dice.random())
            if self.dice.random() < 0.7:
                self._kill(self._host)
            else:
                self.history.counts["failing writes"] += 1
                self._failing = self.dice.choice((0.0, 0.2, 0.6))
                self.history.trouble(20.0)
        self._failing = 0.0
        await asyncio.sleep(20.0)
        if self._keeper is not None:
            self._keeper.cancel()
        until = self.history.time() + CALM
        while self.history.time() < until and (self._book or self._open):
            await asyncio.sleep(1.0)
        if self._book or self._open:
            self.history.violation("left", f"{len(self._book)} unsent, {self._open}")
        self._ends()
        letters = await self._letters()
        await asyncio.sleep(1.0)
        self.history.ends(letters, lambda task: {"OUT_OF_RETRIES"} if self.tasks[task].hopeless else set(), 1 << 30)

    @property
    def _open(self) -> list[str]:
        return [queue for _, queue in self.file.rows.values() if queue != ".dlq."]

    def _task(self, number: int) -> Task:
        dice = self.dice
        task = Task(message(number, stream="s"), dice.choice(POOLS), dice.choice((0.0, 0.05, 1.0, 4.0)))
        if dice.random() < 0.5:
            task.fails = dice.choice((1, 2, 3, ALWAYS))
            task.hopeless = task.fails == ALWAYS
            task.retry_after = dice.choice((0.0, 0.0, 2.5))
        if dice.random() < 0.05:
            task.kills = 2
        self.tasks[task.envelope.id] = task
        self.history.pools[task.envelope.id] = task.pool
        return task

    def _starts(self) -> None:
        self._host.enter()
        asyncio.get_running_loop().create_task(self._lives(), context=self._host.process.context)

    def _kill(self, _host: Host) -> None:
        if self._database is not None:
            self.history.counts["kills"] += 1
            self.history.trouble(20.0)
            self._ends()
            # Nobody can say then which of them were delivered.
            asyncio.get_running_loop().call_later(0.1, self._again)

    def _ends(self) -> None:
        """The process is dead."""
        if self._database is not None:
            self._database.dead, self._database = True, None
            for box in self._broker._boxes.values():
                box.queue.shut()
        self._host.process.cancel()

    def _again(self) -> None:
        for body, queue in self.file.rows.values():
            self.history.returned(body, queue)
            self.history.excuse(body)
        self._starts()

    async def _lives(self) -> None:
        with contextlib.suppress(TroupeError):
            await self._runs()
            return
        self._again()

    async def _runs(self) -> None:
        self._database = Opened(self.file, self.dice, lambda: self._failing)
        self._broker = broker = SqliteBroker(self._database, Moment())  # type: ignore[arg-type]
        await broker.declare(1, POOLS)
        async with asyncio.TaskGroup() as people:
            for _ in range(self.dice.choice((1, 2))):
                people.create_task(
                    Worker(
                        self.tasks, self.history, self.dice, self.dice.choice((1, 3)), self._letter_id, self._kill
                    ).run(broker)
                )
            people.create_task(Sender(self._book, self.history, self.dice).run(broker))
            self._keeper = people.create_task(Keeper(self.tasks, self.history, self.dice).run(broker))

    async def _letters(self) -> list[Any]:
        broker = SqliteBroker(Opened(self.file, self.dice, lambda: 0.0), Moment())  # type: ignore[arg-type]
        self._host.enter()

        async def look() -> list[Any]:
            await broker.declare(1, POOLS)
            return [letter for pool in POOLS for letter in await kept(broker, pool)]

        return await asyncio.get_running_loop().create_task(look(), context=self._host.process.context)

    def _letter_id(self) -> str:
        return f"01900000-0000-7000-9000-{next(self._ids):012}"
