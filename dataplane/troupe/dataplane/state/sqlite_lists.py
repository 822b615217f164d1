"""Lists of the SQLite state store: sessions, messages and promises in pages. Each function only reads."""

import sqlite3
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter

from troupe.broker.addressing import SessionKey
from troupe.dataplane.state import sqlite_tables as tables
from troupe.dataplane.state.control import Promise
from troupe.dataplane.state.session import Entry, SessionSummary
from troupe.dataplane.state.sqlite_tables import CANCEL, ENTRY, KILL, OPEN, PAUSE, PROMISE, SUMMARY
from troupe.v1 import turn_pb2
from troupe.v1.turn_pb2 import Fate


def summaries(
    db: sqlite3.Connection, prefix: str, after: tuple[int, str] | None, limit: int
) -> list[tuple[int, SessionSummary]]:
    page: list[tuple[int, SessionSummary]] = []
    # Shard by shard: within one, the prefix is a range of the index.
    shard, last = after or (-1, "")
    while len(page) < limit:
        listed = db.execute(_SUMMARIES, (shard, max(prefix, last), _end(prefix), last, limit - len(page)))
        page += [(shard, tables.summary(row)) for row in listed]
        (following,) = db.execute("SELECT min(shard) FROM session WHERE shard > ?", (shard,)).fetchone()
        if following is None:
            break
        shard, last = following, ""
    return page


def promises(
    db: sqlite3.Connection, prefix: str, after: tuple[int, str, str] | None, limit: int, *, settled: bool
) -> list[tuple[int, SessionKey, Promise]]:
    page: list[tuple[int, SessionKey, Promise]] = []
    which = "" if settled else f"state = {OPEN} AND"
    shard, path, id_ = after or (-1, "", "")
    while len(page) < limit:
        listed = db.execute(
            f"""SELECT path, {PROMISE} FROM promise
                WHERE {which} shard = ? AND path >= ? AND path < ? AND (path, id) > (?, ?) ORDER BY path, id LIMIT ?""",
            (shard, max(prefix, path), _end(prefix), path, id_, limit - len(page)),
        )
        page += [(shard, SessionKey.parse(found), tables.promise(row)) for found, *row in listed]
        (following,) = db.execute(f"SELECT min(shard) FROM promise WHERE {which} shard > ?", (shard,)).fetchone()
        if following is None:
            break
        shard, path, id_ = following, "", ""
    return page


def messages(
    db: sqlite3.Connection, shard: int, prefix: str, after: tuple[str, str] | None, limit: int
) -> list[tuple[SessionKey, Entry, Fate.ValueType]]:
    path, id_ = after or ("", "")
    found = (db.execute(query, (shard, max(prefix, path), _end(prefix), path, id_)) for query in (_WAITING, _SCHEDULED))
    # The foremost of its copies, and what waits before what is scheduled.
    messages = groupby(merge(*found, key=itemgetter(0, 1, 2)), key=itemgetter(0, 1))
    page = islice((next(copies) for _, copies in messages), limit)
    return [(SessionKey.parse(path), tables.entry(row), fate) for path, _, _, fate, *row in page]


def _end(prefix: str) -> str:
    """Beyond all paths that begin with it."""
    return f"{prefix}\U0010ffff"


_SUMMARIES = f"""
    SELECT {SUMMARY} FROM session WHERE shard = ? AND path >= ? AND path < ? AND path <> ? ORDER BY path LIMIT ?
"""
_BINDS = "SELECT 1 FROM verb WHERE verb.path = inbox.path AND verb.message_id = inbox.message_id AND binds = 1 AND verb"
_WAITING = f"""
    SELECT inbox.path, inbox.message_id, place,
        CASE WHEN EXISTS ({_BINDS} = {PAUSE}) AND NOT EXISTS ({_BINDS} IN ({CANCEL}, {KILL}))
        THEN {turn_pb2.FATE_PAUSED} ELSE {turn_pb2.FATE_WAITING} END, {ENTRY}
    FROM session_backlog AS waits CROSS JOIN inbox ON inbox.path = waits.path
    WHERE waits.shard = ? AND waits.path >= ? AND waits.path < ? AND (inbox.path, inbox.message_id) > (?, ?)
        AND skip = 0
    ORDER BY waits.path, inbox.message_id, place
"""
_SCHEDULED = f"""
    SELECT path, message_id, {2**62}, {turn_pb2.FATE_SCHEDULED}, {ENTRY} FROM scheduled
    WHERE shard = ? AND path >= ? AND path < ? AND (path, message_id) > (?, ?) AND skip = 0
    ORDER BY path, message_id
"""
