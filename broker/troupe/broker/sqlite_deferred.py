"""Messages of SQLite task queues that were put off: they lie apart until they are due."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from troupe.broker.alarm import Alarm
from troupe.broker.queue import Stored
from troupe.broker.sqlite_box import RETRY_DELAY
from troupe.chassis.clock import Clock
from troupe.chassis.sqlite import Database

TOGETHER = 256
"""Messages that come back in one transaction at most."""


class Deferred:
    """Moves what is due to its queue, with a new id; `came_back` is then called with the queue's id and the message,
    in the order of the ids."""

    def __init__(self, database: Database, clock: Clock, came_back: Callable[[int, Stored], None]) -> None:
        self._database, self._clock, self._came_back = database, clock, came_back
        self._alarm = Alarm(clock, self.look)
        self._shut = False

    async def put(self, queue: int, due: float, body: bytes) -> None:
        """Keep the message until `due`, seconds since the epoch; returns once it is durable. Raises Unavailable."""

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO deferred (queue, due, body) VALUES (?, ?, ?)", (queue, due, body))

        await self._database.write(insert, then=lambda _: self._wait(due))

    def look(self) -> None:
        """Bring back what is due, and find out when there will be more."""
        if self._shut:
            return
        self._database.write(self._move, then=self._moved).add_done_callback(self._check)

    def shut(self) -> None:
        """Bring back nothing more."""
        self._shut = True
        self._alarm.off()

    def _wait(self, due: float) -> None:
        if not self._shut:
            self._alarm.set(due)

    def _move(self, connection: sqlite3.Connection) -> "_Move":
        now = self._clock.now()
        due = connection.execute(
            "SELECT id, queue, body FROM deferred WHERE due <= ? ORDER BY due, id LIMIT ?", (now, TOGETHER)
        ).fetchall()
        back = []
        for id_, queue, body in due:
            cursor = connection.execute(
                "INSERT INTO message (queue, published, body) VALUES (?, ?, ?)", (queue, now, body)
            )
            connection.execute("DELETE FROM deferred WHERE id = ?", (id_,))
            back.append((queue, Stored(cursor.lastrowid or 0, body, now)))
        (following,) = connection.execute("SELECT min(due) FROM deferred").fetchone()
        return _Move(back, following)

    def _moved(self, move: "_Move") -> None:
        for queue, message in move.back:
            self._came_back(queue, message)
        if move.following is not None:
            self._wait(move.following)

    def _check(self, moved: "asyncio.Future[_Move]") -> None:
        if moved.exception() is not None:
            self._wait(self._clock.now() + RETRY_DELAY)


@dataclass(frozen=True, slots=True)
class _Move:
    back: list[tuple[int, Stored]]
    """Queues and their messages."""
    following: float | None
    """When the next is due."""
