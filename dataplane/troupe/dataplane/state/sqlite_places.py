"""What takes its place in an inbox of the SQLite state store, as it comes or when it is due."""

import sqlite3
from collections.abc import Set
from dataclasses import replace

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.state import promises, rules, schedule
from troupe.dataplane.state import sqlite_control as controls
from troupe.dataplane.state import sqlite_rows as rows
from troupe.dataplane.state import sqlite_tables as tables
from troupe.dataplane.state.port import Placed
from troupe.dataplane.state.session import Entry, Owner
from troupe.dataplane.state.sqlite_control import TOMBSTONE, Scheduled


def place(
    db: sqlite3.Connection, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool, now: float
) -> Placed:
    """A message comes, or its time on the schedule has."""
    settled, gaps, there, live, fate, tombstone, journaled, controlled = db.execute(
        _PLACE,
        {
            "path": key.path,
            "stream": entry.number.stream,
            "sequence": entry.number.sequence,
            "message_id": entry.message_id,
        },
    ).fetchone()
    waits = rows.waits(db, key, entry.number) if there else None
    placed, record = rules.place(
        entry,
        tables.position(settled, gaps),
        waits=waits is not None or (controlled and controls.is_scheduled(db, key, entry.number)),
        live=bool(live) or (controlled and controls.scheduled(db, key, entry.message_id) is not None),
        busy=bool(entry.rejection) and (busy or rows.is_busy(db, key)),
        fate=fate,
        journaled=bool(journaled),
        tombstone=tombstone,
        now=now,
    )
    if placed is Placed.SCHEDULED:
        controls.put_on_schedule(db, owner.shard, key, entry, envelope)
    elif placed in (Placed.NEW, Placed.SKIPPED):
        entering = replace(schedule.entering(entry), skip=placed is Placed.SKIPPED)
        rows.insert(db, owner.shard, key, entering, envelope, at_head=entering.running is not None)
        if rules.wakes(entering):
            controls.wake(db, key)
        rows.comes_again(db, key, entering, fate)
    elif waits is not None and rules.marks(entry, waits):
        rows.rewrite(db, key, replace(waits, running=entry.running))
    if record is not None:
        rows.settle(db, key, entry.message_id, record, now)
    return placed


def come(db: sqlite3.Connection, owner: Owner, due: Scheduled, *, busy: Set[SessionKey], now: float) -> bool:
    """What is due comes. Whether that changed its session."""
    key = due.key
    match due.kind:
        case "message":
            entry, envelope = controls.take_from_schedule(db, key, Number(due.name, due.sequence))
            placed = place(db, owner, key, entry, envelope, busy=key in busy, now=now)
            return placed in (Placed.NEW, Placed.SKIPPED)
        case "reminder":
            return _remind(db, owner, key, due.name, now)
    promise = controls.promise(db, key, due.name)
    assert promise is not None
    controls.end(db, key, [promises.expired(promise)])
    return True


def _remind(db: sqlite3.Connection, owner: Owner, key: SessionKey, name: str, now: float) -> bool:
    """A reminder is due. Whether that changed the inbox."""
    reminder = controls.reminder(db, key, name)
    entry = schedule.occurrence(reminder, rows.position(db, key, reminder.stream), now)
    if rows.waits(db, key, entry.number) is not None:
        controls.hold(db, key, name)
        return False
    rows.insert(db, owner.shard, key, entry, reminder.envelope, at_head=False)
    controls.go_on(db, key, reminder, schedule.following(reminder, now))
    return True


_PLACE = f"""
    SELECT stream.settled, stream.gaps,
        EXISTS (SELECT 1 FROM inbox WHERE path = :path AND inbox.stream = :stream AND sequence = :sequence),
        EXISTS (SELECT 1 FROM inbox WHERE path = :path AND message_id = :message_id AND skip = 0),
        (SELECT fate FROM record WHERE path = :path AND message_id = :message_id),
        ({TOMBSTONE}),
        EXISTS (SELECT 1 FROM journal WHERE path = :path AND message_id = :message_id),
        EXISTS (SELECT 1 FROM control WHERE path = :path)
    FROM (SELECT 1) LEFT JOIN stream ON stream.path = :path AND stream.stream = :stream
"""
