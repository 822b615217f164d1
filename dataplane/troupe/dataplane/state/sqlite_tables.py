"""The tables of the SQLite state store, and how rows become values.

Tables are ordinary ones, with a rowid: rows are wide (states, envelopes, answers of models), and SQLite moves what is
wide in a table WITHOUT ROWID to pages of its own. Measured, that doubled the cost of a commit. The narrow rows of
counters are the exception.
"""

from typing import Any

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.chassis.sqlite import Schema
from troupe.dataplane.state import rules
from troupe.dataplane.state.port import Entry, Mark, SessionSummary


def in_(values: tuple[int, ...]) -> str:
    """The values as SQL's list. As literals: SQLite uses a partial index only where it can see the condition."""
    return f"({', '.join(str(int(value)) for value in values)})"


REDRIVABLE, REDRIVEN, BINDING = in_(rules.REDRIVABLE), in_(rules.REDRIVEN), in_(rules.BINDING)

SCHEMA = Schema(
    "state",
    3,
    (
        "CREATE TABLE fleet (fleet INTEGER PRIMARY KEY, shards INTEGER NOT NULL)",
        "CREATE TABLE fence (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, instance TEXT NOT NULL)",
        """CREATE TABLE session (
            path TEXT PRIMARY KEY, shard INTEGER NOT NULL, version INTEGER NOT NULL, turns INTEGER NOT NULL,
            created REAL NOT NULL, updated REAL NOT NULL, usage BLOB NOT NULL, state BLOB NOT NULL
        )""",
        "CREATE INDEX session_by_shard ON session (shard, path)",
        "CREATE INDEX session_by_age ON session (updated)",
        """CREATE TABLE history (
            path TEXT NOT NULL, version INTEGER NOT NULL, delta BLOB NOT NULL, PRIMARY KEY (path, version)
        )""",
        """CREATE TABLE stream (
            path TEXT NOT NULL, stream TEXT NOT NULL, settled INTEGER NOT NULL, gaps TEXT NOT NULL,
            touched REAL NOT NULL, PRIMARY KEY (path, stream)
        )""",
        "CREATE INDEX stream_by_age ON stream (touched)",
        """CREATE TABLE inbox (
            path TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL, shard INTEGER NOT NULL,
            place INTEGER NOT NULL, message_id TEXT NOT NULL, digest BLOB NOT NULL, placed REAL NOT NULL,
            skip INTEGER NOT NULL, attempts INTEGER NOT NULL, failures INTEGER NOT NULL, starts INTEGER NOT NULL,
            not_before REAL NOT NULL, first_failed REAL NOT NULL, redriven INTEGER NOT NULL, mark_epoch INTEGER,
            mark_instance TEXT, envelope BLOB NOT NULL, PRIMARY KEY (path, stream, sequence)
        )""",
        "CREATE INDEX inbox_by_place ON inbox (path, place)",
        "CREATE INDEX inbox_by_message ON inbox (path, message_id)",
        # What waits in the inbox of a session, of a shard: counted as it comes and goes. Where nothing waits is no row.
        """CREATE TABLE session_backlog (
            shard INTEGER NOT NULL, path TEXT NOT NULL, messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
            PRIMARY KEY (shard, path)
        ) WITHOUT ROWID""",
        "CREATE TABLE backlog (shard INTEGER PRIMARY KEY, messages INTEGER NOT NULL, bytes INTEGER NOT NULL)",
        """CREATE TABLE record (
            path TEXT NOT NULL, message_id TEXT NOT NULL, fate INTEGER NOT NULL, status BLOB NOT NULL,
            digest BLOB NOT NULL, settled REAL NOT NULL, stays INTEGER NOT NULL, awaited_stream TEXT,
            awaited_sequence INTEGER, PRIMARY KEY (path, message_id)
        )""",
        "CREATE INDEX record_by_age ON record (settled) WHERE stays = 0",
        """CREATE TABLE journal (
            path TEXT NOT NULL, message_id TEXT NOT NULL, digest BLOB NOT NULL, step TEXT NOT NULL,
            content BLOB NOT NULL, PRIMARY KEY (path, message_id, digest, step)
        )""",
        """CREATE TABLE verb (
            path TEXT NOT NULL, message_id TEXT NOT NULL, verb_id TEXT NOT NULL, answer INTEGER NOT NULL,
            status BLOB NOT NULL, recorded REAL NOT NULL, PRIMARY KEY (path, message_id, verb_id)
        )""",
        "CREATE INDEX verb_by_age ON verb (recorded)",
        """CREATE TABLE outbox (
            place INTEGER PRIMARY KEY, path TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL,
            shard INTEGER NOT NULL, target TEXT NOT NULL, envelope BLOB NOT NULL, UNIQUE (path, stream, sequence)
        )""",
        "CREATE INDEX outbox_by_shard ON outbox (shard, path)",
        """CREATE TABLE sent (
            path TEXT NOT NULL, target TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL,
            at REAL NOT NULL, PRIMARY KEY (path, target)
        )""",
        "CREATE INDEX sent_by_age ON sent (at)",
    ),
    migrations={
        2: (
            "ALTER TABLE record ADD COLUMN awaited_stream TEXT",
            "ALTER TABLE record ADD COLUMN awaited_sequence INTEGER",
        ),
    },
)
AWAITS = "awaited_stream IS NOT NULL"
"""Of a record: a redriven copy of its message is on its way, under the number that these columns hold."""
NAME = "stream, sequence, message_id, digest, placed, redriven"
"""The columns of an entry that stay as they are while it waits."""
STAND = "skip, attempts, failures, starts, not_before, first_failed, mark_epoch, mark_instance"
"""Those that change."""
ENTRY = f"{NAME}, {STAND}"
"""The columns of `entry`."""
SUMMARY = """
    path, version, turns, (SELECT count(*) FROM inbox WHERE inbox.path = session.path AND skip = 0), usage, created,
    updated
"""
"""The columns of `summary`."""


def position(settled: int | None, gaps: str | None) -> Position:
    """A stream's position from its row, or from what a join has without one."""
    return Position(settled or 0, frozenset(map(int, gaps.split(","))) if gaps else frozenset())


def gaps(position: Position) -> str:
    """The column of that name."""
    return ",".join(map(str, sorted(position.gaps)))


def entry(row: Any) -> Entry:
    stream, sequence, message_id, digest, placed, redriven, *stood, mark_epoch, mark_instance = row
    skip, attempts, failures, starts, not_before, first_failed = stood
    return Entry(
        Number(stream, sequence),
        message_id,
        digest,
        placed,
        bool(skip),
        attempts,
        failures,
        starts,
        not_before,
        first_failed,
        None if mark_epoch is None else Mark(mark_epoch, mark_instance),
        bool(redriven),
    )


def row(entry: Entry) -> tuple[object, ...]:
    """The columns ENTRY of an entry."""
    return (
        entry.number.stream,
        entry.number.sequence,
        entry.message_id,
        entry.digest,
        entry.placed,
        entry.redriven,
        *stand(entry),
    )


def stand(entry: Entry) -> tuple[object, ...]:
    """The columns STAND of an entry."""
    mark = entry.running
    return (
        entry.skip,
        entry.attempts,
        entry.failures,
        entry.starts,
        entry.not_before,
        entry.first_failed,
        mark and mark.epoch,
        mark and mark.instance,
    )


def summary(row: Any) -> SessionSummary:
    path, *rest = row
    return SessionSummary(SessionKey.parse(path), *rest)
