"""Durable queues in one SQLite file: the embedded default. Concurrent publishers share one fsync.

Messages lie in one table in the order of their ids. In memory a queue holds a window of them; what is beyond is
read when there is room. Acks are deleted in groups, a moment later: one that is lost with the process brings its
message again, as redelivered, and the receiver knows its number. After a start nobody can say which of the messages
found had been delivered before, so all of them count as redelivered.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from troupe.broker import metrics
from troupe.broker.addressing import SessionKey, mailbox, task_queue
from troupe.broker.envelope import retried
from troupe.broker.port import (
    AGENTS,
    PREFETCH,
    DeadLetter,
    Delivery,
    Depth,
    HeldLetter,
    NotSent,
    Subscription,
    check_deferral,
    check_pools,
    pool_unknown,
    queue_unknown,
    shards_changed,
)
from troupe.broker.queue import Stored
from troupe.broker.spans import sending
from troupe.broker.sqlite_box import Acks, Box
from troupe.broker.sqlite_deferred import Deferred
from troupe.broker.sqlite_schema import LETTER, SCHEMA
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import TroupeError
from troupe.chassis.sqlite import Database
from troupe.v1.envelope_pb2 import Envelope

PAGE = 100
"""Dead letters that are read at once; a body can be 256 KiB."""


class SqliteBroker:
    """See `troupe.broker.port.Broker`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._shards = 0
        self._boxes: dict[str, Box] = {}
        self._pools = {AGENTS}
        self._acks = Acks(database)
        self._deferred = Deferred(database, clock, self._came_back)
        self._open = True

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(path: Path, clock: Clock | None = None) -> AsyncIterator["SqliteBroker"]:
        """The broker on the file at `path`, which this process then owns. Errors are those of Database.opened. On
        exit what was published and acked is in the file; deliveries end, and later acks are lost."""
        async with Database.opened(path, SCHEMA) as database:
            broker = SqliteBroker(database, clock or SystemClock())
            try:
                yield broker
            finally:
                broker._shut()

    async def declare(self, shards: int, pools: Sequence[str] = ()) -> None:
        check_pools(pools)
        names = [*map(mailbox, range(shards)), *map(task_queue, pools)]

        def script(connection: sqlite3.Connection) -> list[_Found]:
            row = connection.execute("SELECT shards FROM topology").fetchone()
            if row is None:
                connection.execute("INSERT INTO topology (shards) VALUES (?)", (shards,))
            elif row[0] != shards:
                raise shards_changed(row[0], shards)
            connection.executemany("INSERT OR IGNORE INTO queue (name) VALUES (?)", [(name,) for name in names])
            return [_Found(*row) for row in connection.execute(_FOUND) if row[1] in names]

        def add(found: Sequence[_Found]) -> None:
            self._shards = shards
            self._pools.update(pools)
            for queue in found:
                self._add(queue)
            self._deferred.look()

        await self._database.write(script, then=add)

    async def publish(self, envelope: Envelope, pool: str = "") -> None:
        box = self._route(envelope, pool)
        with metrics.Publishing(), sending(envelope, box.name) as sent:
            self._check_open()
            await self._database.write(self._insert(box, sent), then=box.add)

    async def publish_many(self, envelopes: Sequence[Envelope], pool: str = "") -> Sequence[TroupeError | None]:
        outcomes: list[TroupeError | None] = []
        good: list[tuple[Box, Envelope]] = []
        for envelope in envelopes:
            try:
                good.append((self._route(envelope, pool), envelope))
                outcomes.append(None)
            except TroupeError as error:
                outcomes.append(error)
        if not good:
            return outcomes
        try:
            await self._publish(good)
        except TroupeError as error:
            return [outcome or error for outcome in outcomes]
        return outcomes

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        return self._box(queue).queue.subscribe(handler, prefetch)

    async def defer(self, delivery: Delivery, delay: float) -> None:
        check_deferral(delivery, delay)
        attempt, body = retried(delivery.body)
        await self._deferred.put(self._box(delivery.queue).id, self._clock.now() + delay, body)
        metrics.deferred(attempt)
        delivery.ack()

    async def dead_letter(self, letter: DeadLetter) -> None:
        row = [_storable(getattr(letter, name)) for name in ("id", *LETTER[1:])]
        statement = f"INSERT OR IGNORE INTO dead_letter ({', '.join(LETTER)}) VALUES ({', '.join('?' * len(row))})"
        await self._database.write(lambda connection: connection.execute(statement, row).rowcount)
        metrics.dead_lettered(letter.reason)

    @contextlib.asynccontextmanager
    async def dead_letters(self, pool: str = AGENTS) -> AsyncIterator[AsyncIterator[HeldLetter]]:
        if pool not in self._pools:
            raise pool_unknown(pool)
        newest = await self._database.read(
            lambda connection: connection.execute("SELECT max(id) FROM dead_letter WHERE pool = ?", (pool,)).fetchone()
        )
        async with contextlib.aclosing(self._letters(pool, newest[0] or 0)) as letters:
            yield letters

    async def depth(self, queue: str) -> Depth:
        box = self._box(queue)
        oldest = await box.oldest()
        return Depth(box.depth, oldest)

    def _add(self, found: "_Found") -> None:
        if found.name in self._boxes:
            return
        shared = found.name.startswith(task_queue(""))
        box = Box(
            found.id, found.name, shared, found.messages, found.newest, found.published, self._database, self._acks
        )
        self._boxes[found.name] = box
        metrics.show_queue(found.name, lambda: box.depth, box.oldest_known, self._clock.now)

    def _route(self, envelope: Envelope, pool: str) -> Box:
        """The queue for the envelope. Raises what `publish` does where it cannot be sent."""
        key = SessionKey.of(envelope.target)
        return self._box(task_queue(pool) if pool else mailbox(key.shard(self._shards)))

    def _box(self, queue: str) -> Box:
        try:
            return self._boxes[queue]
        except KeyError:
            raise queue_unknown(queue) from None

    def _check_open(self) -> None:
        if not self._open:
            raise NotSent("BROKER_CLOSED", "the broker is closed: the process is stopping")

    async def _publish(self, messages: Sequence[tuple[Box, Envelope]]) -> None:
        """Write them in one job: all or none."""

        def add(stored: Sequence[Stored]) -> None:
            for (box, _), message in zip(messages, stored, strict=True):
                box.add(message)

        with metrics.Publishing(len(messages)), contextlib.ExitStack() as spans:
            self._check_open()
            inserts = [
                self._insert(box, spans.enter_context(sending(envelope, box.name))) for box, envelope in messages
            ]
            await self._database.write(lambda connection: [insert(connection) for insert in inserts], then=add)

    def _insert(self, box: Box, envelope: Envelope) -> Callable[[sqlite3.Connection], Stored]:
        body = envelope.SerializeToString()

        def insert(connection: sqlite3.Connection) -> Stored:
            now = self._clock.now()
            cursor = connection.execute(
                "INSERT INTO message (queue, published, body) VALUES (?, ?, ?)", (box.id, now, body)
            )
            return Stored(cursor.lastrowid or 0, body, now)

        return insert

    def _came_back(self, queue: int, message: Stored) -> None:
        box = next((box for box in self._boxes.values() if box.id == queue), None)
        if box is not None:  # else its pool is not declared now, and it is found when it is
            box.add(message)

    async def _letters(self, pool: str, newest: int) -> AsyncGenerator[HeldLetter, None]:
        statement = (
            f"SELECT id, {', '.join(LETTER)} FROM dead_letter WHERE pool = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"
        )

        def page(after: int) -> "asyncio.Future[list[tuple[Any, ...]]]":
            found = (pool, after, newest, PAGE)
            return self._database.read(lambda connection: connection.execute(statement, found).fetchall())

        rows = await page(0)
        while rows:
            for _, *letter in rows:
                yield _Held(DeadLetter(*letter), self._database)
            rows = await page(rows[-1][0])

    def _shut(self) -> None:
        self._open = False
        self._acks.shut()
        self._deferred.shut()
        for name, box in self._boxes.items():
            box.queue.shut()
            metrics.hide_queue(name)


@dataclass(frozen=True, slots=True)
class _Found:
    """A queue as it is in the file."""

    id: int
    name: str
    messages: int
    newest: int
    published: float | None
    """Its oldest message."""


_FOUND = """
    SELECT queue.id, queue.name, count(message.id), coalesce(max(message.id), 0),
        (SELECT published FROM message WHERE queue = queue.id ORDER BY id LIMIT 1)
    FROM queue LEFT JOIN message ON message.queue = queue.id GROUP BY queue.id
"""


@dataclass(frozen=True, slots=True)
class _Held:
    """See `troupe.broker.port.HeldLetter`."""

    letter: DeadLetter
    _database: Database

    async def remove(self) -> None:
        id_ = self.letter.id
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM dead_letter WHERE letter_id = ?", (id_,)).rowcount
        )


def _storable(value: bytes | str | float) -> bytes | str | float:
    """A letter's text comes from anywhere, and must not keep the letter from being kept: SQLite takes no half
    surrogates."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
