"""The control records of the SQLite state store: verbs, promises and what is on the schedule. Each function is one step
of a script."""

import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.state import promises, schedule
from troupe.dataplane.state import sqlite_tables as tables
from troupe.dataplane.state.control import Control, Promise, Reminder
from troupe.dataplane.state.session import Entry, Verbs
from troupe.dataplane.state.sqlite_tables import CANCEL, ENTRY, KILL, OPEN, PAUSE, PROMISE, STOPPING
from troupe.dataplane.state.verbs import Bound, binds
from troupe.v1.agent_pb2 import VerbAnswer


class Scheduled(NamedTuple):
    """One thing on a shard's schedule."""

    key: SessionKey
    kind: str
    """`message`, `reminder` or `promise`."""
    name: str
    """A message's stream, a reminder's name, a promise's id."""
    sequence: int
    """A message's."""


def take_up(db: sqlite3.Connection, shard: int, key: SessionKey) -> None:
    """The session has a control record from now on."""
    db.execute("INSERT OR IGNORE INTO control (path, shard, rests) VALUES (?, ?, 0)", (key.path, shard))


def rest(db: sqlite3.Connection, key: SessionKey) -> None:
    db.execute("UPDATE control SET rests = 1 WHERE path = ?", (key.path,))


def wake(db: sqlite3.Connection, key: SessionKey) -> None:
    db.execute("UPDATE control SET rests = 0 WHERE path = ? AND rests = 1", (key.path,))


# --- verbs


def verbs(db: sqlite3.Connection, path: str) -> Verbs:
    """All that bind a message of the session."""
    rows = db.execute("SELECT message_id, verb FROM verb WHERE path = ? AND binds = 1", (path,)).fetchall()
    return Verbs(
        frozenset(id_ for id_, verb in rows if verb in (CANCEL, KILL)),
        frozenset(id_ for id_, verb in rows if verb == KILL),
        frozenset(id_ for id_, verb in rows if verb == PAUSE),
    )


def bound(db: sqlite3.Connection, key: SessionKey, message_id: str) -> Bound:
    """The verbs that bind one message."""
    (found,) = db.execute(
        "SELECT group_concat(DISTINCT verb) FROM verb WHERE path = ? AND message_id = ? AND binds = 1",
        (key.path, message_id),
    ).fetchone()
    return tables.bound(found)


def recorded(db: sqlite3.Connection, key: SessionKey, control: Control) -> VerbAnswer.ValueType | None:
    """The answer that this verb had before."""
    row = db.execute(
        "SELECT answer FROM verb WHERE path = ? AND message_id = ? AND verb_id = ?",
        (key.path, control.message_id, control.verb_id),
    ).fetchone()
    return None if row is None else VerbAnswer.ValueType(row[0])


def pauses(db: sqlite3.Connection, key: SessionKey, message_id: str) -> list[str]:
    """Ids of those that bind the message."""
    rows = db.execute(
        f"SELECT verb_id FROM verb WHERE path = ? AND message_id = ? AND binds = 1 AND verb = {PAUSE}",
        (key.path, message_id),
    )
    return [verb_id for (verb_id,) in rows]


def is_lifted(db: sqlite3.Connection, key: SessionKey, control: Control) -> bool:
    """Whether a RESUME of before names this verb."""
    row = db.execute(
        "SELECT 1 FROM verb WHERE path = ? AND message_id = ? AND lifts = ?",
        (key.path, control.message_id, control.verb_id),
    ).fetchone()
    return row is not None


def record_verb(
    db: sqlite3.Connection,
    shard: int,
    key: SessionKey,
    control: Control,
    answer: VerbAnswer.ValueType,
    lifted: Iterable[str],
    now: float,
) -> None:
    """`lifted`: ids of the PAUSEs that it lifts."""
    take_up(db, shard, key)
    wake(db, key)
    db.execute(
        """INSERT INTO verb (path, message_id, verb_id, shard, verb, answer, lifts, binds, recorded, status)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            key.path,
            control.message_id,
            control.verb_id,
            shard,
            control.verb,
            answer,
            control.lifts,
            binds(control.verb, answer),
            now,
            control.status,
        ),
    )
    db.executemany(
        "UPDATE verb SET binds = 0 WHERE path = ? AND message_id = ? AND verb_id = ?",
        [(key.path, control.message_id, verb_id) for verb_id in lifted],
    )


# --- promises


def promise(db: sqlite3.Connection, key: SessionKey, promise_id: str) -> Promise | None:
    row = db.execute(f"SELECT {PROMISE} FROM promise WHERE path = ? AND id = ?", (key.path, promise_id)).fetchone()
    return None if row is None else tables.promise(row)


def promises_of(db: sqlite3.Connection, key: SessionKey, message_id: str) -> list[Promise]:
    rows = db.execute(
        f"SELECT {PROMISE} FROM promise WHERE path = ? AND message_id = ? ORDER BY id", (key.path, message_id)
    )
    return [tables.promise(row) for row in rows]


def make(db: sqlite3.Connection, shard: int, key: SessionKey, made: Iterable[Promise]) -> None:
    for new in made:
        take_up(db, shard, key)
        kept = promises.made(new, promise(db, key, new.id))
        row = tables.promise_row(kept)
        columns = ", ".join("?" for _ in row)
        db.execute(
            f"""INSERT INTO promise (path, shard, {PROMISE}) VALUES (?, ?, {columns})
                ON CONFLICT (path, id) DO UPDATE SET tokens = excluded.tokens""",
            (key.path, shard, *row),
        )


def end(db: sqlite3.Connection, key: SessionKey, ended: Collection[Promise]) -> None:
    """Promises that came to their end: what waits for one of them goes on."""
    if not ended:
        return
    db.executemany(
        """UPDATE promise SET state = ?, value = ?, settlement_id = ?, settled_by = ?, settled = ?
            WHERE path = ? AND id = ?""",
        [
            (each.state, each.value, each.settlement_id, each.settled_by, each.settled, key.path, each.id)
            for each in ended
        ],
    )
    ids = [each.id for each in ended]
    waiting = db.execute(f"SELECT {ENTRY} FROM inbox WHERE path = ? AND awaits <> ''", (key.path,)).fetchall()
    for waits in map(tables.entry, waiting):
        if promises.woken(waits, ids) != waits:
            db.execute(
                "UPDATE inbox SET awaits = '' WHERE path = ? AND stream = ? AND sequence = ?",
                (key.path, waits.number.stream, waits.number.sequence),
            )
    wake(db, key)


# --- the schedule


def is_scheduled(db: sqlite3.Connection, key: SessionKey, number: Number) -> bool:
    row = db.execute(f"SELECT 1 FROM scheduled WHERE {NUMBER}", (key.path, number.stream, number.sequence)).fetchone()
    return row is not None


def scheduled(db: sqlite3.Connection, key: SessionKey, message_id: str) -> Entry | None:
    """The message as it stands on the schedule, unless as a SKIP."""
    row = db.execute(
        f"SELECT {ENTRY} FROM scheduled WHERE path = ? AND message_id = ? AND skip = 0", (key.path, message_id)
    ).fetchone()
    return None if row is None else tables.entry(row)


def put_on_schedule(db: sqlite3.Connection, shard: int, key: SessionKey, entry: Entry, envelope: bytes) -> None:
    take_up(db, shard, key)
    row = tables.row(entry)
    db.execute(
        f"INSERT INTO scheduled (path, shard, envelope, {ENTRY}) VALUES (?, ?, ?, {', '.join('?' for _ in row)})",
        (key.path, shard, envelope, *row),
    )


def take_from_schedule(db: sqlite3.Connection, key: SessionKey, number: Number) -> tuple[Entry, bytes]:
    """A message, with its envelope."""
    *row, envelope = db.execute(
        f"DELETE FROM scheduled WHERE {NUMBER} RETURNING {ENTRY}, envelope", (key.path, number.stream, number.sequence)
    ).fetchone()
    return tables.entry(row), envelope


def unschedule(db: sqlite3.Connection, key: SessionKey, number: Number) -> None:
    db.execute(f"DELETE FROM scheduled WHERE {NUMBER}", (key.path, number.stream, number.sequence))


def remind(db: sqlite3.Connection, shard: int, key: SessionKey, reminder: Reminder) -> None:
    take_up(db, shard, key)
    db.execute(
        """INSERT OR REPLACE INTO reminder (path, name, shard, stream, due, every, held, digest, envelope)
            VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)""",
        (
            key.path,
            reminder.name,
            shard,
            reminder.stream,
            reminder.due,
            reminder.every,
            reminder.digest,
            reminder.envelope,
        ),
    )


def reminder(db: sqlite3.Connection, key: SessionKey, name: str) -> Reminder:
    return Reminder(
        *db.execute(
            "SELECT name, stream, due, every, digest, envelope FROM reminder WHERE path = ? AND name = ?",
            (key.path, name),
        ).fetchone()
    )


def hold(db: sqlite3.Connection, key: SessionKey, name: str) -> None:
    """The reminder waits until its occurrence before is settled."""
    db.execute("UPDATE reminder SET held = 1 WHERE path = ? AND name = ?", (key.path, name))


def go_on(db: sqlite3.Connection, key: SessionKey, reminder: Reminder, following: Reminder | None) -> None:
    """An occurrence of the reminder took its place."""
    if following is None:
        db.execute("DELETE FROM reminder WHERE path = ? AND name = ?", (key.path, reminder.name))
    else:
        db.execute("UPDATE reminder SET due = ? WHERE path = ? AND name = ?", (following.due, key.path, reminder.name))


def due(db: sqlite3.Connection, shard: int, now: float, limit: int) -> list[Scheduled]:
    """What is due, first come first."""
    rows = db.execute(_DUE, {"shard": shard, "now": now, "limit": limit}).fetchall()
    return [Scheduled(SessionKey.parse(path), *rest) for path, *rest in rows]


def following(db: sqlite3.Connection, shard: int) -> float | None:
    """When the next is due."""
    (at,) = db.execute(_FOLLOWING, {"shard": shard}).fetchone()
    return at  # type: ignore[no-any-return]


# --- ends


def settle_number(db: sqlite3.Connection, key: SessionKey, number: Number) -> None:
    unschedule(db, key, number)
    if schedule.is_occurrence(number):
        db.execute("UPDATE reminder SET held = 0 WHERE path = ? AND stream = ?", (key.path, number.stream))


def settle(
    db: sqlite3.Connection, key: SessionKey, message_id: str, now: float, *, ended: bool, withdraws: bool
) -> None:
    """The message has its end. `ended`: it was written; `withdraws`: for good."""
    name = (key.path, message_id)
    db.execute(_CALL_OFF, name)
    if ended:
        db.execute("UPDATE verb SET binds = 0 WHERE path = ? AND message_id = ? AND binds = 1", name)
    if withdraws:
        made = [promises.withdrawn(each, now) for each in promises_of(db, key, message_id) if promises.is_open(each)]
        end(db, key, made)


NUMBER = "path = ? AND stream = ? AND sequence = ?"
"""The condition for one place on the schedule, as in the inbox."""
_DUE = f"""
    SELECT path, kind, name, sequence FROM (
        SELECT * FROM (SELECT due, path, 'message' AS kind, stream AS name, sequence
            FROM scheduled WHERE shard = :shard AND due <= :now ORDER BY due LIMIT :limit)
        UNION ALL SELECT * FROM (SELECT due, path, 'reminder', name, 0
            FROM reminder WHERE shard = :shard AND held = 0 AND due <= :now ORDER BY due LIMIT :limit)
        UNION ALL SELECT * FROM (SELECT expires, path, 'promise', id, 0
            FROM promise WHERE shard = :shard AND state = {OPEN} AND expires > 0 AND expires <= :now
            ORDER BY expires LIMIT :limit)
    ) ORDER BY due LIMIT :limit
"""
_FOLLOWING = f"""
    SELECT min(at) FROM (
        SELECT min(due) AS at FROM scheduled WHERE shard = :shard
        UNION ALL SELECT min(due) FROM reminder WHERE shard = :shard AND held = 0
        UNION ALL SELECT min(expires) FROM promise WHERE shard = :shard AND state = {OPEN} AND expires > 0
    )
"""
# See schedule.called_off.
_CALL_OFF = "UPDATE scheduled SET skip = 1, due = min(due, placed) WHERE path = ? AND message_id = ? AND skip = 0"
TOMBSTONE = f"""
    SELECT status FROM verb WHERE path = :path AND message_id = :message_id AND binds = 1 AND verb IN {STOPPING}
    ORDER BY rowid LIMIT 1
"""
"""The status of the CANCEL or KILL that binds a message."""
