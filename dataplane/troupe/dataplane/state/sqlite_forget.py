"""What the SQLite state store drops, some rows at a time, so that turns never wait long."""

import sqlite3
from collections.abc import Callable, Iterator

from troupe.dataplane.state import rules
from troupe.dataplane.state.sqlite_rows import MESSAGE

FORGOTTEN_AT_ONCE = 256
"""Rows that one transaction drops: some milliseconds, which turns wait."""

Drop = Callable[[sqlite3.Connection], int]
"""Drops some; how many. Called again until there are none."""


def drops(old: float, now: float) -> Iterator[Drop]:
    """Everything from before `old` that is kept no longer than records, and sessions past their retention."""
    yield _records(old)
    for outdated in _OUTDATED:
        yield _rows(outdated, old)
    yield _sessions(now)
    yield _rows(_CONTROL)


def _rows(outdated: str, *before: float) -> Drop:
    return lambda db: db.execute(outdated, (*before, FORGOTTEN_AT_ONCE)).rowcount


def _records(before: float) -> Drop:
    def drop(db: sqlite3.Connection) -> int:
        gone = db.execute(
            """DELETE FROM record WHERE rowid IN (SELECT rowid FROM record WHERE settled < ? AND stays = 0 LIMIT ?)
                RETURNING path, message_id, fate""",
            (before, FORGOTTEN_AT_ONCE),
        ).fetchall()
        db.executemany(f"DELETE FROM promise WHERE {MESSAGE}", [(path, message_id) for path, message_id, _ in gone])
        # Of other fates no journal is left.
        purged = [(path, message_id) for path, message_id, fate in gone if fate in rules.REDRIVABLE]
        db.executemany(f"DELETE FROM journal WHERE {MESSAGE}", purged)
        return len(gone)

    return drop


def _sessions(now: float) -> Drop:
    def drop(db: sqlite3.Connection) -> int:
        gone = db.execute(
            f"""SELECT path FROM session WHERE goes < ? AND {" AND ".join(map(_none, _HOLDING))} LIMIT 16""", (now,)
        ).fetchall()
        for table in ("session", "history", "snapshot"):
            db.executemany(f"DELETE FROM {table} WHERE path = ?", gone)
        # A dead letter's journal and promises stay with its record.
        for table in ("journal", "promise"):
            db.executemany(
                f"""DELETE FROM {table} AS each WHERE path = ? AND NOT EXISTS (
                    SELECT 1 FROM record WHERE record.path = each.path AND record.message_id = each.message_id)""",
                gone,
            )
        return len(gone)

    return drop


def _none(table: str) -> str:
    return f"NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.path = session.path)"


_HOLDING = ("inbox", "outbox", "scheduled", "reminder")
"""Tables that keep a session from going."""
_OUTDATED = (
    """DELETE FROM verb WHERE rowid IN (
        SELECT rowid FROM verb WHERE recorded < ?
        AND NOT EXISTS (
            SELECT 1 FROM inbox WHERE inbox.path = verb.path AND inbox.message_id = verb.message_id AND skip = 0)
        AND NOT EXISTS (SELECT 1 FROM scheduled
            WHERE scheduled.path = verb.path AND scheduled.message_id = verb.message_id AND skip = 0)
        LIMIT ?)""",
    """DELETE FROM stream WHERE rowid IN (
        SELECT rowid FROM stream WHERE touched < ?
        AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.path = stream.path AND inbox.stream = stream.stream)
        AND NOT EXISTS (SELECT 1 FROM scheduled WHERE scheduled.path = stream.path AND scheduled.stream = stream.stream)
        AND NOT EXISTS (SELECT 1 FROM reminder WHERE reminder.path = stream.path AND reminder.stream = stream.stream)
        LIMIT ?)""",
    """DELETE FROM sent WHERE rowid IN (
        SELECT rowid FROM sent WHERE at < ? AND NOT EXISTS (
            SELECT 1 FROM outbox WHERE outbox.path = sent.path AND outbox.stream = sent.stream) LIMIT ?)""",
)
# What rests does so for a promise or by a verb.
_CONTROL = """
    DELETE FROM control WHERE path IN (
        SELECT path FROM control
        WHERE NOT EXISTS (SELECT 1 FROM verb WHERE verb.path = control.path)
        AND NOT EXISTS (SELECT 1 FROM promise WHERE promise.path = control.path)
        AND NOT EXISTS (SELECT 1 FROM scheduled WHERE scheduled.path = control.path)
        AND NOT EXISTS (SELECT 1 FROM reminder WHERE reminder.path = control.path)
        LIMIT ?)
"""
