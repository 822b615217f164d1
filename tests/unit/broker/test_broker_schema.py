"""A broker's file of an older troupe becomes one of this, with all that is in it."""

import contextlib
import sqlite3
from pathlib import Path

from support.brokers import holds, letter, letters
from support.mailboxes import Receiver, message, number, queue_of, session_in

from troupe.broker.port import Delivery
from troupe.broker.sqlite import SqliteBroker
from troupe.broker.sqlite_schema import LETTER, SCHEMA
from troupe.chassis import sqlite_file
from troupe.chassis.sqlite import Schema

FIRST = Schema(
    "broker",
    1,
    (
        "CREATE TABLE topology (shards INTEGER NOT NULL)",
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


async def test_messages_and_letters_of_the_first_version_are_there(tmp_path: Path) -> None:
    # Given a file of the first version, with messages of some mailboxes and letters
    file = tmp_path / "broker.db"
    sqlite_file.prepare(file, FIRST)
    shards = 4
    dead = [letter(f"m-{number}") for number in range(3)]
    with contextlib.closing(sqlite_file.connect(file)) as connection:
        connection.execute("INSERT INTO topology VALUES (?)", (shards,))
        for sequence, shard in ((1, 3), (1, 1), (2, 3)):
            body = message(sequence, session=session_in(shard, shards)).SerializeToString()
            connection.execute("INSERT INTO message (shard, published, body) VALUES (?, 5.0, ?)", (shard, body))
        for each in dead:
            columns = [column for column in LETTER if column != "letter_id"]
            row = [1_700_000_000.0 if name == "last_failed" else getattr(each, name) for name in columns]
            connection.execute(f"INSERT INTO dead_letter ({', '.join(columns)}) VALUES ({', '.join('?' * 12)})", row)
    # When this troupe opens it
    async with SqliteBroker.opened(file) as broker:
        await broker.declare(shards, ["gpu"])
        # Then all of it is there
        receivers = [Receiver(on_delivery=Delivery.ack) for _ in range(shards)]
        for shard, receiver in enumerate(receivers):
            await broker.consume(queue_of(shard), receiver)
        assert await receivers[3].received(2) == [1, 2]
        assert await receivers[1].received(1) == [1]
        for shard in range(shards):
            await holds(broker, 0, queue_of(shard))
        kept = await letters(broker)
        assert [each.message_id for each in kept] == ["m-0", "m-1", "m-2"]
        # And each letter has an id of the time when it was written
        assert len({each.id for each in kept}) == 3
        assert {int(each.id.replace("-", "")[:12], 16) for each in kept} == {1_700_000_000_000}
        assert all(len(each.id) == 36 and each.id[14] == "7" and each.id[19] == "8" for each in kept)
        # And it goes on as any
        await broker.publish(message(9, session=session_in(0, shards)))
        assert await receivers[0].received(1) == [9]
        assert number(receivers[0].deliveries[0]) == 9


def test_it_has_the_tables_of_a_new_file(tmp_path: Path) -> None:
    sqlite_file.prepare(tmp_path / "old.db", FIRST)
    sqlite_file.prepare(tmp_path / "old.db", SCHEMA)
    sqlite_file.prepare(tmp_path / "new.db", SCHEMA)

    assert _tables(tmp_path / "old.db") == _tables(tmp_path / "new.db")


def _tables(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """The columns of all tables and indices."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        found = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
        return found | {f"{name}'s": connection.execute(f"PRAGMA index_info({name})").fetchall() for name in names}
