"""One SQLite queue: the window of it that is in memory, and how acked messages leave the file."""

import asyncio
import sqlite3

from troupe.broker.queue import Queue, Stored
from troupe.chassis.sqlite import Database

WINDOW = 64
"""Messages of one queue that wait in memory at most; a body can be 256 KiB."""
ACK_DELAY = 0.02
"""Seconds that acks wait for company before they are deleted."""
RETRY_DELAY = 1.0
"""Seconds after which a read or delete that failed is tried again."""


class Box:
    """One queue. What it has in memory is what is left of the table's messages up to `_read`; beyond, from there up
    to `_newest`, they are in the table only. Once the window has caught up, new messages pass straight into it."""

    def __init__(
        self,
        id_: int,
        name: str,
        shared: bool,
        depth: int,
        newest: int,
        published: float | None,
        database: Database,
        acks: "Acks",
    ) -> None:
        """`depth` messages up to the id `newest` are in the table, the oldest of them `published` then."""
        self.id, self.name, self.depth = id_, name, depth
        self.queue = Queue(name, shared, on_ack=self._acked, on_room=self._refill)
        self._database, self._acks = database, acks
        self._found = newest  # up to here, messages may have been delivered before this process began
        self._newest = newest  # the last message that is in the table, as far as `add` was told
        self._read = 0  # up to here, messages are in memory, or were
        self._reading = False
        self._since = published or 0.0  # when the message was published at which the queue began to fill

    async def oldest(self) -> float | None:
        """When the oldest message was confirmed."""
        if (oldest := self.queue.oldest) is not None or self.depth == 0:
            return oldest

        def first(connection: sqlite3.Connection) -> tuple[float] | None:
            row: tuple[float] | None = connection.execute(
                "SELECT published FROM message WHERE queue = ? AND id > ? ORDER BY id LIMIT 1", (self.id, after)
            ).fetchone()
            return row

        after = self._read
        row = await self._database.read(first)
        return row[0] if row else None

    def oldest_known(self) -> float | None:
        """The same without reading the table, from any thread: where the oldest message is not in memory, something
        was published at that moment and nothing that is left before it."""
        if (oldest := self.queue.oldest) is not None:
            return oldest
        return max(self._since, self.queue.reached) if self.depth else None

    def add(self, message: Stored) -> None:
        """A message was committed. Called in the order of ids."""
        if self.depth == 0:
            self._since = message.published
        self.depth += 1
        follows = self._read == self._newest and self.queue.consumed and self.queue.ready < WINDOW
        self._newest = message.id
        if follows:
            self._read = message.id
            self.queue.push(message)

    def _acked(self, id_: int) -> None:
        self.depth -= 1
        self._acks.add(id_)

    def _refill(self) -> None:
        if self._reading or self._read == self._newest or self.queue.ready > 0:
            return
        after, newest = self._read, self._newest

        def beyond(connection: sqlite3.Connection) -> list[tuple[int, bytes, float]]:
            return connection.execute(
                "SELECT id, body, published FROM message WHERE queue = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?",
                (self.id, after, newest, WINDOW),
            ).fetchall()

        self._reading = True
        self._database.read(beyond).add_done_callback(lambda rows: self._filled(newest, rows))

    def _filled(self, newest: int, found: "asyncio.Future[list[tuple[int, bytes, float]]]") -> None:
        self._reading = False
        if found.exception() is not None:
            asyncio.get_running_loop().call_later(RETRY_DELAY, self.queue.pump)
            return
        rows = found.result()
        self._read = rows[-1][0] if len(rows) == WINDOW else newest
        for id_, body, published in rows:
            self.queue.push(Stored(id_, body, published, int(id_ <= self._found)))
        self.queue.pump()


class Acks:
    """Deletes acked messages in groups."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: list[int] = []
        self._shut = False

    def add(self, id_: int) -> None:
        if not self._ids:
            asyncio.get_running_loop().call_later(ACK_DELAY, self._flush)
        self._ids.append(id_)

    def shut(self) -> None:
        """Hand over what there is. Nothing is added afterwards."""
        self._flush()
        self._shut = True

    def _flush(self) -> None:
        if self._shut or not self._ids:
            return
        ids, self._ids = self._ids, []

        def delete(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM message WHERE id = ?", [(id_,) for id_ in ids])

        self._database.write(delete).add_done_callback(lambda deleted: self._deleted(ids, deleted))

    def _deleted(self, ids: list[int], deleted: "asyncio.Future[None]") -> None:
        if deleted.exception() is not None:
            asyncio.get_running_loop().call_later(RETRY_DELAY, self._flush)
            self._ids += ids
