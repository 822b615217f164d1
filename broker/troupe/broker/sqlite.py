"""Durable mailboxes in one SQLite file: the embedded default. Concurrent publishers share one fsync.

Messages lie in one table in the order of their ids. In memory a mailbox holds a window of them; what is beyond is
read when there is room. Acks are deleted in groups, a moment later: one that is lost with the process brings its
message again, as redelivered, and the receiver knows its number. After a start nobody can say which of the messages
found had been delivered before, so all of them count as redelivered.
"""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import fields
from pathlib import Path

from troupe.broker import metrics
from troupe.broker.addressing import SessionKey, mailbox
from troupe.broker.mailbox import Stored
from troupe.broker.port import (
    PREFETCH,
    DeadLetter,
    Delivery,
    Depth,
    MailboxFull,
    Subscription,
    mailbox_unknown,
    shards_changed,
)
from troupe.broker.sqlite_box import Acks, Box
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.sqlite import Database, Schema
from troupe.v1.envelope_pb2 import Envelope

SCHEMA = Schema(
    "broker",
    1,
    (
        # One row: the count that messages were spread over, which cannot change under them.
        "CREATE TABLE topology (shards INTEGER NOT NULL)",
        # AUTOINCREMENT: an id is never used again, so that a late delete cannot meet a new message.
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY AUTOINCREMENT, shard INTEGER NOT NULL, published REAL NOT NULL, body BLOB NOT NULL
        )""",
        "CREATE INDEX message_by_shard ON message (shard, id)",
        """CREATE TABLE dead_letter (
            id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, pool TEXT NOT NULL, message_id TEXT NOT NULL,
            session TEXT NOT NULL, reason TEXT NOT NULL, error TEXT NOT NULL, attempts INTEGER NOT NULL,
            first_failed REAL NOT NULL, last_failed REAL NOT NULL, worker_id TEXT NOT NULL, revision_id TEXT NOT NULL,
            trace_id TEXT NOT NULL
        )""",
    ),
)

_LETTER = [field.name for field in fields(DeadLetter)]


class SqliteBroker:
    """See `troupe.broker.port.Broker`."""

    def __init__(self, database: Database, max_depth: int, clock: Clock) -> None:
        self._database, self._max_depth, self._clock = database, max_depth, clock
        self._boxes: dict[str, Box] = {}
        self._acks = Acks(database)

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(
        path: Path, max_depth: int = 1_000_000, clock: Clock | None = None
    ) -> AsyncIterator["SqliteBroker"]:
        """The broker on the file at `path`, which this process then owns. Errors are those of Database.opened.
        `max_depth` bounds each mailbox; messages that are being written at that moment are not counted. On exit what
        was published and acked is in the file; deliveries end, and later acks are lost."""
        async with Database.opened(path, SCHEMA) as database:
            broker = SqliteBroker(database, max_depth, clock or SystemClock())
            try:
                yield broker
            finally:
                broker._shut()

    async def declare(self, shards: int) -> None:
        def script(connection: sqlite3.Connection) -> list[tuple[int, int, int]]:
            row = connection.execute("SELECT shards FROM topology").fetchone()
            if row is None:
                connection.execute("INSERT INTO topology (shards) VALUES (?)", (shards,))
            elif row[0] != shards:
                raise shards_changed(row[0], shards)
            return connection.execute("SELECT shard, count(*), max(id) FROM message GROUP BY shard").fetchall()

        held = {shard: (messages, newest) for shard, messages, newest in await self._database.write(script)}
        if self._boxes:
            return
        for shard in range(shards):
            box = Box(shard, *held.get(shard, (0, 0)), self._database, self._acks)
            self._boxes[box.mailbox.name] = box
            metrics.show_depth(box.mailbox.name, box.messages)

    async def publish(self, envelope: Envelope) -> None:
        box = self._box(mailbox(SessionKey.of(envelope.target).shard(len(self._boxes))))
        with metrics.publishing():
            if box.depth >= self._max_depth:
                raise MailboxFull.of(box.mailbox.name, self._max_depth)
            body = envelope.SerializeToString()

            def insert(connection: sqlite3.Connection) -> Stored:
                now = self._clock.now()
                cursor = connection.execute(
                    "INSERT INTO message (shard, published, body) VALUES (?, ?, ?)", (box.shard, now, body)
                )
                return Stored(cursor.lastrowid or 0, body, now)

            await self._database.write(insert, then=box.add)

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        return self._box(queue).mailbox.subscribe(handler, prefetch)

    async def dead_letter(self, letter: DeadLetter) -> None:
        row = [_storable(getattr(letter, name)) for name in _LETTER]
        statement = f"INSERT INTO dead_letter ({', '.join(_LETTER)}) VALUES ({', '.join('?' * len(row))})"
        await self._database.write(lambda connection: connection.execute(statement, row).rowcount)
        metrics.dead_lettered(letter.reason)

    async def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        statement = f"SELECT {', '.join(_LETTER)} FROM dead_letter ORDER BY id LIMIT ?"
        rows = await self._database.read(lambda connection: connection.execute(statement, (limit,)).fetchall())
        return [DeadLetter(*row) for row in rows]

    async def depth(self, queue: str) -> Depth:
        box = self._box(queue)
        oldest = await box.oldest()
        return Depth(box.depth, oldest)

    def _box(self, queue: str) -> Box:
        try:
            return self._boxes[queue]
        except KeyError:
            raise mailbox_unknown(queue) from None

    def _shut(self) -> None:
        self._acks.shut()
        for name, box in self._boxes.items():
            box.mailbox.shut()
            metrics.hide_depth(name)


def _storable(value: bytes | str | float) -> bytes | str | float:
    """A letter's text comes from anywhere, and must not keep the letter from being kept: SQLite takes no half
    surrogates."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
