"""The tables of a SQLite broker, and how the file of an older one becomes one of this."""

from dataclasses import fields

from troupe.broker.port import DeadLetter
from troupe.chassis.sqlite import Schema

LETTER = ["letter_id", *(field.name for field in fields(DeadLetter) if field.name != "id")]
"""Columns of a dead letter, in the order of its fields."""

_QUEUES = "CREATE TABLE queue (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)"
# A message put off lies apart: it comes back as a new message, behind those that wait.
_DEFERRED = """CREATE TABLE deferred (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, due REAL NOT NULL, body BLOB NOT NULL
)"""
_DEFERRED_BY_DUE = "CREATE INDEX deferred_by_due ON deferred (due, id)"
_LETTER_ONCE = "CREATE UNIQUE INDEX dead_letter_once ON dead_letter (letter_id)"
_LETTER_BY_POOL = "CREATE INDEX dead_letter_by_pool ON dead_letter (pool, id)"

SCHEMA = Schema(
    "broker",
    2,
    (
        # One row: the count that messages were spread over, which cannot change under them.
        "CREATE TABLE topology (shards INTEGER NOT NULL)",
        _QUEUES,
        # AUTOINCREMENT: an id is never used again, so that a late delete cannot meet a new message.
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, published REAL NOT NULL, body BLOB NOT NULL
        )""",
        "CREATE INDEX message_by_queue ON message (queue, id)",
        _DEFERRED,
        _DEFERRED_BY_DUE,
        """CREATE TABLE dead_letter (
            id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, pool TEXT NOT NULL, message_id TEXT NOT NULL,
            session TEXT NOT NULL, reason TEXT NOT NULL, error TEXT NOT NULL, attempts INTEGER NOT NULL,
            first_failed REAL NOT NULL, last_failed REAL NOT NULL, worker_id TEXT NOT NULL, revision_id TEXT NOT NULL,
            trace_id TEXT NOT NULL, letter_id TEXT NOT NULL DEFAULT ''
        )""",
        _LETTER_ONCE,
        _LETTER_BY_POOL,
    ),
    migrations={
        # Messages named the shard of their mailbox; letters had no id, and get one of when they were written.
        1: (
            _QUEUES,
            "INSERT INTO queue (id, name) SELECT DISTINCT shard, 'troupe.v1.mailbox.' || shard FROM message",
            "ALTER TABLE message RENAME COLUMN shard TO queue",
            "DROP INDEX message_by_shard",
            "CREATE INDEX message_by_queue ON message (queue, id)",
            _DEFERRED,
            _DEFERRED_BY_DUE,
            "ALTER TABLE dead_letter ADD COLUMN letter_id TEXT NOT NULL DEFAULT ''",
            """UPDATE dead_letter SET letter_id = (
                SELECT printf('%s-%s-7%s-8%s-%s',
                    substr(time, 1, 8), substr(time, 9), substr(dice, 1, 3), substr(dice, 4, 3), substr(dice, 7, 12))
                FROM (SELECT printf('%012x', CAST(last_failed * 1000 AS INTEGER)) AS time,
                    lower(hex(randomblob(9))) AS dice)
            )""",
            _LETTER_ONCE,
            _LETTER_BY_POOL,
        ),
    },
)
