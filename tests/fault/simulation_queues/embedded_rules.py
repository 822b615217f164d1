"""Rules of the embedded broker's task queues, each with a way to switch it off."""

import asyncio
import dataclasses
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from troupe.broker import sqlite
from troupe.broker.port import Delivery
from troupe.broker.sqlite import SqliteBroker
from troupe.broker.sqlite_box import Acks, Box
from troupe.broker.sqlite_deferred import Deferred

Switch = Callable[[], AbstractContextManager[Any]]


def no_commit_before_the_confirm() -> AbstractContextManager[Any]:
    """A publish is confirmed before it is in the file."""
    return _at_once(SqliteBroker, "publish")


def no_copy_before_the_ack() -> AbstractContextManager[Any]:
    """What is put off is acked before its copy is in the file."""
    real = SqliteBroker.defer

    async def hasty(self: SqliteBroker, delivery: Delivery, delay: float) -> None:
        if not delivery.acked:
            delivery.ack()
        await real(self, dataclasses.replace(delivery, settle=lambda: None, acked=False), delay)

    return mock.patch.object(SqliteBroker, "defer", hasty)


def no_letter_before_the_ack() -> AbstractContextManager[Any]:
    """A letter is kept before it is in the file."""
    return _at_once(SqliteBroker, "dead_letter")


def no_coming_back_in_one_step() -> AbstractContextManager[Any]:
    """What was put off leaves its table in one transaction, and enters its queue in the next."""
    real = Deferred._move

    def look(self: Deferred) -> None:
        taken: list[tuple[int, int, float, bytes]] = []

        def take(connection: sqlite3.Connection) -> None:
            due = self._clock.now()
            taken.extend(connection.execute("SELECT * FROM deferred WHERE due <= ?", (due,)))
            connection.execute("DELETE FROM deferred WHERE due <= ?", (due,))

        def move(connection: sqlite3.Connection) -> Any:
            connection.executemany("INSERT INTO deferred VALUES (?, ?, ?, ?)", taken)
            return real(self, connection)

        def follow(_: None) -> None:
            self._database.write(move, then=self._moved).add_done_callback(self._check)

        self._database.write(take, then=follow).add_done_callback(lambda taking: taking.exception())

    return mock.patch.object(Deferred, "look", look)


def no_look_at_the_start() -> AbstractContextManager[Any]:
    """What was put off before the process began is not looked for."""
    look, begun = Deferred.look, set[int]()

    def later(self: Deferred) -> None:
        if id(self) in begun:
            look(self)
        begun.add(id(self))

    return mock.patch.object(Deferred, "look", later)


def no_second_try_to_come_back() -> AbstractContextManager[Any]:
    """A return that fails is not tried again."""
    return mock.patch.object(Deferred, "_check", lambda self, moved: moved.exception())


def no_second_try_to_delete() -> AbstractContextManager[Any]:
    """An ack that cannot be written is forgotten."""
    return mock.patch.object(Acks, "_deleted", lambda self, ids, deleted: deleted.exception())


def no_beyond_the_window() -> AbstractContextManager[Any]:
    """What memory has no room for is taken as read."""
    filled = Box._filled

    def whole(self: Box, newest: int, found: "asyncio.Future[Any]") -> None:
        filled(self, newest, found)
        self._read = newest

    return mock.patch.object(Box, "_filled", whole)


def no_count_of_attempts() -> AbstractContextManager[Any]:
    """Each attempt is the first."""
    return mock.patch.object(sqlite, "retried", lambda body: (0, body))


def _at_once(broker: type[SqliteBroker], name: str) -> AbstractContextManager[Any]:
    """The method returns at once, and what it does goes on by itself."""
    real, going = getattr(broker, name), set[asyncio.Task[Any]]()

    async def hasty(self: SqliteBroker, *given: Any) -> None:
        going.add(asyncio.create_task(real(self, *given)))
        await asyncio.sleep(0)

    return mock.patch.object(broker, name, hasty)


OFF: Mapping[str, Switch] = {
    name.removeprefix("no_").replace("_", " "): switch for name, switch in globals().items() if name.startswith("no_")
}
