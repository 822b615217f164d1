"""The tables of the SQLite state store, and how rows become values.

Tables are ordinary ones, with a rowid: rows are wide (states, envelopes, answers of models), and SQLite moves what is
wide in a table WITHOUT ROWID to pages of its own. Measured, that doubled the cost of a commit. The narrow rows of
counters are the exception.
"""

import json
from typing import Any

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.chassis.sqlite import Schema
from troupe.dataplane.state import rules
from troupe.dataplane.state.control import Promise
from troupe.dataplane.state.session import RETENTION, Entry, Mark, SessionSummary
from troupe.dataplane.state.verbs import BINDING, ENDING, FREE, Bound
from troupe.v1 import agent_pb2, promise_pb2


def in_(values: tuple[int, ...]) -> str:
    """The values as SQL's list. As literals: SQLite uses a partial index only where it can see the condition."""
    return f"({', '.join(str(int(value)) for value in values)})"


REDRIVABLE, REDRIVEN = in_(rules.REDRIVABLE), in_(rules.REDRIVEN)
CANCEL, KILL, PAUSE = (int(verb) for verb in (agent_pb2.VERB_CANCEL, agent_pb2.VERB_KILL, agent_pb2.VERB_PAUSE))
STOPPING = in_(ENDING)
OPEN = int(promise_pb2.PROMISE_STATE_OPEN)

_ENTRY = """
            path TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL, shard INTEGER NOT NULL,
            message_id TEXT NOT NULL, digest BLOB NOT NULL, placed REAL NOT NULL, skip INTEGER NOT NULL,
            attempts INTEGER NOT NULL, failures INTEGER NOT NULL, starts INTEGER NOT NULL, not_before REAL NOT NULL,
            first_failed REAL NOT NULL, redriven INTEGER NOT NULL, mark_epoch INTEGER, mark_instance TEXT,
            due REAL NOT NULL, rejection BLOB NOT NULL, attributes TEXT NOT NULL, awaits TEXT NOT NULL,
            suspended REAL NOT NULL, envelope BLOB NOT NULL, PRIMARY KEY (path, stream, sequence)
"""
_INBOX = (
    f"CREATE TABLE inbox (place INTEGER NOT NULL, {_ENTRY})",
    "CREATE INDEX inbox_by_place ON inbox (path, place)",
    "CREATE INDEX inbox_by_message ON inbox (path, message_id)",
    "CREATE INDEX inbox_awaiting ON inbox (path) WHERE awaits <> ''",
)
# `binds`: until its message is settled, or its PAUSE lifted.
_VERB = (
    """CREATE TABLE verb (
            path TEXT NOT NULL, message_id TEXT NOT NULL, verb_id TEXT NOT NULL, shard INTEGER NOT NULL,
            verb INTEGER NOT NULL, answer INTEGER NOT NULL, lifts TEXT NOT NULL, binds INTEGER NOT NULL,
            recorded REAL NOT NULL, status BLOB NOT NULL, PRIMARY KEY (path, message_id, verb_id)
        )""",
    "CREATE INDEX verb_by_age ON verb (recorded)",
    "CREATE INDEX verb_binding ON verb (shard, path) WHERE binds = 1",
)
_CONTROL = (
    # Sessions that have, or had lately, verbs, promises, or anything on the schedule: only there anybody looks for
    # them, and only they may rest.
    "CREATE TABLE control (path TEXT PRIMARY KEY, shard INTEGER NOT NULL, rests INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX control_resting ON control (shard, path) WHERE rests = 1",
    """CREATE TABLE promise (
            path TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, message_id TEXT NOT NULL, created REAL NOT NULL,
            expires REAL NOT NULL, tokens TEXT NOT NULL, approvers TEXT NOT NULL, json_schema BLOB NOT NULL,
            state INTEGER NOT NULL, value BLOB NOT NULL, settlement_id TEXT NOT NULL, settled_by TEXT NOT NULL,
            settled REAL NOT NULL, shard INTEGER NOT NULL, PRIMARY KEY (path, id)
        )""",
    "CREATE INDEX promise_by_message ON promise (path, message_id)",
    "CREATE INDEX promise_by_shard ON promise (shard, path, id)",
    f"CREATE INDEX promise_open ON promise (shard, path, id) WHERE state = {OPEN}",
    f"CREATE INDEX promise_by_expiry ON promise (shard, expires) WHERE state = {OPEN} AND expires > 0",
    f"CREATE TABLE scheduled ({_ENTRY})",
    "CREATE INDEX scheduled_by_due ON scheduled (shard, due)",
    "CREATE INDEX scheduled_by_message ON scheduled (path, message_id)",
    "CREATE INDEX scheduled_by_shard ON scheduled (shard, path, message_id)",
    # `held`: it is due, and waits until its occurrence before is settled.
    """CREATE TABLE reminder (
            path TEXT NOT NULL, name TEXT NOT NULL, shard INTEGER NOT NULL, stream TEXT NOT NULL, due REAL NOT NULL,
            every REAL NOT NULL, held INTEGER NOT NULL, digest BLOB NOT NULL, envelope BLOB NOT NULL,
            PRIMARY KEY (path, name)
        )""",
    "CREATE INDEX reminder_by_due ON reminder (shard, due) WHERE held = 0",
    # Beside the session: it is wide, and written once in many turns.
    "CREATE TABLE snapshot (path TEXT PRIMARY KEY, version INTEGER NOT NULL, content BLOB NOT NULL)",
)
_BY_RETENTION = "CREATE INDEX session_by_retention ON session (goes)"

SCHEMA = Schema(
    "state",
    4,
    (
        "CREATE TABLE fleet (fleet INTEGER PRIMARY KEY, shards INTEGER NOT NULL)",
        "CREATE TABLE fence (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, instance TEXT NOT NULL)",
        # `goes`: when its retention is over.
        """CREATE TABLE session (
            path TEXT PRIMARY KEY, shard INTEGER NOT NULL, version INTEGER NOT NULL, turns INTEGER NOT NULL,
            created REAL NOT NULL, updated REAL NOT NULL, usage BLOB NOT NULL, state BLOB NOT NULL,
            goes REAL NOT NULL DEFAULT 0
        )""",
        "CREATE INDEX session_by_shard ON session (shard, path)",
        _BY_RETENTION,
        """CREATE TABLE history (
            path TEXT NOT NULL, version INTEGER NOT NULL, delta BLOB NOT NULL, PRIMARY KEY (path, version)
        )""",
        """CREATE TABLE stream (
            path TEXT NOT NULL, stream TEXT NOT NULL, settled INTEGER NOT NULL, gaps TEXT NOT NULL,
            touched REAL NOT NULL, PRIMARY KEY (path, stream)
        )""",
        "CREATE INDEX stream_by_age ON stream (touched)",
        *_INBOX,
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
        *_VERB,
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
        *_CONTROL,
    ),
    migrations={
        2: (
            "ALTER TABLE record ADD COLUMN awaited_stream TEXT",
            "ALTER TABLE record ADD COLUMN awaited_sequence INTEGER",
        ),
        3: (
            "ALTER TABLE session ADD COLUMN goes REAL NOT NULL DEFAULT 0",
            f"UPDATE session SET goes = updated + {RETENTION}",
            "DROP INDEX session_by_age",
            _BY_RETENTION,
            "ALTER TABLE inbox RENAME TO inbox_before",
            "DROP INDEX inbox_by_place",
            "DROP INDEX inbox_by_message",
            *_INBOX,
            """INSERT INTO inbox
                SELECT place, path, stream, sequence, shard, message_id, digest, placed, skip, attempts, failures,
                    starts, not_before, first_failed, redriven, mark_epoch, mark_instance, 0, x'', '', '', 0, envelope
                FROM inbox_before""",
            "DROP TABLE inbox_before",
            "ALTER TABLE verb RENAME TO verb_before",
            "DROP INDEX verb_by_age",
            *_VERB,
            # There were only CANCELs. The shard of what never came is not known: it binds, and nobody is told.
            f"""INSERT INTO verb
                SELECT path, message_id, verb_id,
                    coalesce((SELECT shard FROM session_backlog AS waits WHERE waits.path = verb_before.path), -1),
                    {CANCEL}, answer, '', answer IN {in_(BINDING)} AND NOT EXISTS (
                        SELECT 1 FROM record WHERE record.path = verb_before.path
                            AND record.message_id = verb_before.message_id AND fate NOT IN {REDRIVABLE}),
                    recorded, status
                FROM verb_before""",
            "DROP TABLE verb_before",
            *_CONTROL,
            "INSERT OR IGNORE INTO control SELECT path, shard, 0 FROM verb",
        ),
    },
)
AWAITS = "awaited_stream IS NOT NULL"
"""Of a record: a redriven copy of its message is on its way, under the number that these columns hold."""
NAME = "stream, sequence, message_id, digest, placed, redriven, due, rejection, attributes"
"""The columns of an entry that stay as they are while it waits."""
STAND = "skip, attempts, failures, starts, not_before, first_failed, awaits, suspended, mark_epoch, mark_instance"
"""Those that change."""
ENTRY = f"{NAME}, {STAND}"
"""The columns of `entry`."""
PROMISE = """
    id, name, message_id, created, expires, tokens, approvers, json_schema, state, value, settlement_id, settled_by,
    settled
"""
"""The columns of `promise`."""
SUMMARY = """
    path, version, turns, (SELECT count(*) FROM inbox WHERE inbox.path = session.path AND skip = 0), usage, created,
    updated, (SELECT count(*) FROM scheduled WHERE scheduled.path = session.path AND skip = 0)
        + (SELECT count(*) FROM reminder WHERE reminder.path = session.path)
"""
"""The columns of `summary`."""


def position(settled: int | None, gaps: str | None) -> Position:
    """A stream's position from its row, or from what a join has without one."""
    return Position(settled or 0, frozenset(map(int, gaps.split(","))) if gaps else frozenset())


def gaps(position: Position) -> str:
    """The column of that name."""
    return ",".join(map(str, sorted(position.gaps)))


def bound(verbs: str | None) -> Bound:
    """Of a message, from the verbs that bind it, as a list; None: there are none."""
    if not verbs:
        return FREE
    found = {int(verb) for verb in verbs.split(",")}
    return Bound(cancelled=CANCEL in found or KILL in found, killed=KILL in found, paused=PAUSE in found)


def entry(row: Any) -> Entry:
    stream, sequence, message_id, digest, placed, redriven, due, rejection, attributes, *stood = row
    skip, attempts, failures, starts, not_before, first_failed, awaits, suspended, mark_epoch, mark_instance = stood
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
        due,
        rejection,
        tuple(json.loads(awaits)) if awaits else (),
        suspended,
        tuple((key, value) for key, value in json.loads(attributes)) if attributes else (),
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
        entry.due,
        entry.rejection,
        json.dumps(entry.attributes) if entry.attributes else "",
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
        json.dumps(entry.awaits) if entry.awaits else "",
        entry.suspended,
        mark and mark.epoch,
        mark and mark.instance,
    )


def promise(row: Any) -> Promise:
    id_, name, message_id, created, expires, tokens, approvers, *rest = row
    hashes = tuple(map(bytes.fromhex, json.loads(tokens)))
    return Promise(id_, name, message_id, created, expires, hashes, tuple(json.loads(approvers)), *rest)


def promise_row(promise: Promise) -> tuple[object, ...]:
    """The columns PROMISE of a promise."""
    return (
        promise.id,
        promise.name,
        promise.message_id,
        promise.created,
        promise.expires,
        json.dumps([token.hex() for token in promise.tokens]),
        json.dumps(promise.approvers),
        promise.json_schema,
        promise.state,
        promise.value,
        promise.settlement_id,
        promise.settled_by,
        promise.settled,
    )


def summary(row: Any) -> SessionSummary:
    path, *rest = row
    return SessionSummary(SessionKey.parse(path), *rest)
