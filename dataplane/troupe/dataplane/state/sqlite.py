"""Session state in one SQLite file: each script is one job of a group-committed transaction."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Place, Position
from troupe.chassis.sqlite import Database, Schema
from troupe.dataplane.state.port import (
    RECENT,
    RECORD_KEPT,
    Begun,
    CancelRecorded,
    Entry,
    Fenced,
    Loaded,
    Owner,
    Placed,
    Record,
    SessionSummary,
    TurnCommit,
    VersionConflict,
)
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer

SCHEMA = Schema(
    "state",
    1,
    (
        "CREATE TABLE fence (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, instance TEXT NOT NULL)",
        """CREATE TABLE session (
            path TEXT PRIMARY KEY, shard INTEGER NOT NULL, version INTEGER NOT NULL, turns INTEGER NOT NULL,
            state BLOB NOT NULL, usage BLOB NOT NULL, created REAL NOT NULL, updated REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX session_by_shard ON session (shard, path)",
        "CREATE INDEX session_by_age ON session (updated)",
        """CREATE TABLE history (
            path TEXT NOT NULL, version INTEGER NOT NULL, delta BLOB NOT NULL, PRIMARY KEY (path, version)
        ) WITHOUT ROWID""",
        """CREATE TABLE stream (
            path TEXT NOT NULL, stream TEXT NOT NULL, settled INTEGER NOT NULL, gaps TEXT NOT NULL,
            touched REAL NOT NULL, PRIMARY KEY (path, stream)
        ) WITHOUT ROWID""",
        "CREATE INDEX stream_by_age ON stream (touched)",
        """CREATE TABLE inbox (
            path TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL, shard INTEGER NOT NULL,
            place INTEGER NOT NULL, message_id TEXT NOT NULL, digest BLOB NOT NULL, placed REAL NOT NULL,
            skip INTEGER NOT NULL, attempts INTEGER NOT NULL, failures INTEGER NOT NULL, starts INTEGER NOT NULL,
            not_before REAL NOT NULL, first_failed REAL NOT NULL, running INTEGER NOT NULL, envelope BLOB NOT NULL,
            PRIMARY KEY (path, stream, sequence)
        ) WITHOUT ROWID""",
        "CREATE INDEX inbox_by_place ON inbox (path, place)",
        "CREATE INDEX inbox_by_message ON inbox (path, message_id)",
        "CREATE INDEX inbox_by_shard ON inbox (shard, path)",
        """CREATE TABLE record (
            path TEXT NOT NULL, message_id TEXT NOT NULL, fate INTEGER NOT NULL, status BLOB NOT NULL,
            digest BLOB NOT NULL, settled REAL NOT NULL, PRIMARY KEY (path, message_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX record_by_age ON record (settled)",
        """CREATE TABLE journal (
            path TEXT NOT NULL, message_id TEXT NOT NULL, step TEXT NOT NULL, content BLOB NOT NULL,
            PRIMARY KEY (path, message_id, step)
        ) WITHOUT ROWID""",
        """CREATE TABLE verb (
            path TEXT NOT NULL, verb_id TEXT NOT NULL, message_id TEXT NOT NULL, answer INTEGER NOT NULL,
            recorded REAL NOT NULL, PRIMARY KEY (path, verb_id, message_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX verb_by_message ON verb (path, message_id)",
        "CREATE INDEX verb_by_age ON verb (recorded)",
    ),
)
_ENTRY = (
    "stream, sequence, message_id, digest, placed, skip, attempts, failures, starts, not_before, first_failed, running"
)
_SUMMARY = """
    path, version, turns, (SELECT count(*) FROM inbox WHERE inbox.path = session.path AND skip = 0), usage, created,
    updated
"""
_RECORDED = "SELECT 1 FROM record WHERE record.path = verb.path AND record.message_id = verb.message_id"
_KEPT_UNTIL_REDRIVEN = (turn_pb2.FATE_DEAD, turn_pb2.FATE_EXPIRED)
_BINDING = (agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING)


class SqliteStateStore:
    """See `troupe.dataplane.state.port.StateStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(path: Path) -> AsyncIterator["SqliteStateStore"]:
        """The store on the file at `path`, which this process then owns. Errors are those of Database.opened."""
        async with Database.opened(path, SCHEMA) as database:
            yield SqliteStateStore(database)

    async def claim(self, owner: Owner) -> Sequence[SessionKey]:
        def script(db: sqlite3.Connection) -> list[SessionKey]:
            _check_fence(db, owner)
            db.execute(
                "INSERT OR REPLACE INTO fence (shard, epoch, instance) VALUES (?, ?, ?)",
                (owner.shard, owner.epoch, owner.instance),
            )
            rows = db.execute("SELECT DISTINCT path FROM inbox WHERE shard = ?", (owner.shard,))
            return [SessionKey.parse(path) for (path,) in rows]

        return await self._database.write(script)

    async def load(self, key: SessionKey) -> Loaded:
        def script(db: sqlite3.Connection) -> Loaded:
            path = (key.path,)
            # One transaction, so that all parts are of one moment.
            db.execute("BEGIN")
            try:
                session = db.execute("SELECT version, state FROM session WHERE path = ?", path).fetchone()
                history = db.execute("SELECT delta FROM history WHERE path = ? ORDER BY version", path).fetchall()
                streams = db.execute("SELECT stream, settled, gaps FROM stream WHERE path = ?", path).fetchall()
                inbox = db.execute(f"SELECT {_ENTRY} FROM inbox WHERE path = ? ORDER BY place", path).fetchall()
                recent = db.execute(
                    "SELECT message_id FROM record WHERE path = ? LIMIT ?", (key.path, RECENT)
                ).fetchall()
                cancelled = db.execute(
                    f"""SELECT DISTINCT message_id FROM verb WHERE path = ? AND answer IN (?, ?)
                        AND NOT EXISTS ({_RECORDED})""",
                    (key.path, *_BINDING),
                ).fetchall()
            finally:
                db.execute("COMMIT")
            version, state = session or (0, b"")
            return Loaded(
                version=version,
                state=state,
                history=[delta for (delta,) in history],
                positions={stream: Position(settled, _gaps(gaps)) for stream, settled, gaps in streams},
                inbox=[_entry(row) for row in inbox],
                recent=[message_id for (message_id,) in recent],
                cancelled=[message_id for (message_id,) in cancelled],
            )

        return await self._database.read(script)

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> Placed:
        def script(db: sqlite3.Connection) -> Placed:
            _check_fence(db, owner)
            if _position(db, key, entry.number.stream).place(entry.number.sequence) is Place.SETTLED:
                return Placed.SETTLED
            present = db.execute(
                "SELECT running FROM inbox WHERE path = ? AND stream = ? AND sequence = ?",
                (key.path, entry.number.stream, entry.number.sequence),
            ).fetchone()
            if present is not None:
                return Placed.PRESENT
            skip = entry.skip or (not entry.running and _known(db, key, entry.message_id))
            _insert(db, owner.shard, key, entry, envelope, skip=skip, at_head=entry.running)
            return Placed.SKIPPED if skip else Placed.NEW

        return await self._database.write(script)

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        def script(db: sqlite3.Connection) -> Begun:
            _check_fence(db, owner)
            number = (key.path, entry.number.stream, entry.number.sequence)
            row = db.execute(
                "SELECT envelope FROM inbox WHERE path = ? AND stream = ? AND sequence = ?", number
            ).fetchone()
            if row is None:
                raise KeyError(entry.number)
            journal = db.execute(
                "SELECT step, content FROM journal WHERE path = ? AND message_id = ?", (key.path, entry.message_id)
            ).fetchall()
            db.execute(
                """UPDATE inbox SET starts = ?, attempts = ?, running = 0
                    WHERE path = ? AND stream = ? AND sequence = ?""",
                (entry.starts + 1, entry.attempts + 1, *number),
            )
            return Begun(row[0], dict(journal))

        return await self._database.write(script)

    async def journal(
        self, owner: Owner, key: SessionKey, message_id: str, steps: Mapping[str, bytes], *, starts: bool
    ) -> None:
        def script(db: sqlite3.Connection) -> None:
            _check_fence(db, owner)
            if starts:
                _check_verbs(db, key, message_id)
            db.executemany(
                "INSERT OR IGNORE INTO journal (path, message_id, step, content) VALUES (?, ?, ?, ?)",
                [(key.path, message_id, step, content) for step, content in steps.items()],
            )

        await self._database.write(script)

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        def script(db: sqlite3.Connection) -> None:
            _check_fence(db, owner)
            _check_verbs(db, key, entry.message_id)
            if _position(db, key, entry.number.stream).place(entry.number.sequence) is Place.SETTLED:
                return
            _remove(db, key, entry.number)
            _insert(db, owner.shard, key, entry, envelope, skip=False, at_head=True)

        await self._database.write(script)

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        def script(db: sqlite3.Connection) -> int:
            key, number, record = commit.key, commit.number, commit.record
            _check_fence(db, owner)
            row = db.execute("SELECT version FROM session WHERE path = ?", (key.path,)).fetchone()
            version: int = row[0] if row else 0
            position = _position(db, key, number.stream)
            if position.place(number.sequence) is Place.SETTLED:
                return version
            settled = position.settle(number.sequence)
            done = record is not None and record.fate == turn_pb2.FATE_DONE
            if done and version != commit.version:
                raise VersionConflict("VERSION_CONFLICT", f"{key} is at version {version}, not {commit.version}")
            if record is not None and record.fate != turn_pb2.FATE_CANCELLED:
                _check_verbs(db, key, commit.message_id)
            _save_position(db, key, number.stream, settled, commit.now)
            _remove(db, key, number)
            if record is not None:
                _settle(db, key, commit.message_id, record, commit.now)
            if not done:
                return version
            _save_session(db, owner.shard, commit, version + 1)
            return version + 1

        return await self._database.write(script)

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, now: float) -> bool:
        def script(db: sqlite3.Connection) -> bool:
            _check_fence(db, owner)
            position = _position(db, key, number.stream)
            if number.sequence != position.settled + 1:
                return False
            waits = db.execute(
                "SELECT 1 FROM inbox WHERE path = ? AND stream = ? AND sequence = ?",
                (key.path, number.stream, number.sequence),
            ).fetchone()
            if waits:
                return False
            _save_position(db, key, number.stream, position.pass_over(), now)
            return True

        return await self._database.write(script)

    async def record(self, key: SessionKey, message_id: str) -> Record | None:
        row = await self._database.read(
            lambda db: db.execute(
                "SELECT fate, status, digest FROM record WHERE path = ? AND message_id = ?", (key.path, message_id)
            ).fetchone()
        )
        return None if row is None else Record(*row)

    async def waiting(self, key: SessionKey, message_id: str) -> Entry | None:
        row = await self._database.read(
            lambda db: db.execute(
                f"SELECT {_ENTRY} FROM inbox WHERE path = ? AND message_id = ? AND skip = 0", (key.path, message_id)
            ).fetchone()
        )
        return None if row is None else _entry(row)

    async def cancel(
        self, key: SessionKey, message_id: str, verb_id: str, cancelled: Record, now: float
    ) -> VerbAnswer.ValueType:
        def script(db: sqlite3.Connection) -> VerbAnswer.ValueType:
            seen = db.execute(
                "SELECT answer FROM verb WHERE path = ? AND verb_id = ? AND message_id = ?",
                (key.path, verb_id, message_id),
            ).fetchone()
            if seen is not None:
                return seen[0]  # type: ignore[no-any-return]
            name = (key.path, message_id)
            waits = db.execute(
                "SELECT starts, attempts, running FROM inbox WHERE path = ? AND message_id = ? AND skip = 0", name
            ).fetchone()
            began = waits is not None and (
                any(waits)
                or db.execute("SELECT 1 FROM journal WHERE path = ? AND message_id = ?", name).fetchone() is not None
            )
            if waits is not None:
                answer = agent_pb2.VERB_ANSWER_APPLIED
            elif db.execute("SELECT 1 FROM record WHERE path = ? AND message_id = ?", name).fetchone():
                answer = agent_pb2.VERB_ANSWER_TOO_LATE
            else:
                answer = agent_pb2.VERB_ANSWER_PENDING
            db.execute(
                "INSERT INTO verb (path, verb_id, message_id, answer, recorded) VALUES (?, ?, ?, ?, ?)",
                (key.path, verb_id, message_id, answer, now),
            )
            if waits is not None and not began:
                _settle(db, key, message_id, cancelled, now)
            return answer

        return await self._database.write(script)

    async def summary(self, key: SessionKey) -> SessionSummary | None:
        row = await self._database.read(
            lambda db: db.execute(f"SELECT {_SUMMARY} FROM session WHERE path = ?", (key.path,)).fetchone()
        )
        return None if row is None else _summary(row)

    async def summaries(
        self, prefix: str, after: tuple[int, str] | None, limit: int
    ) -> Sequence[tuple[int, SessionSummary]]:
        shard, path = after or (-1, "")
        rows = await self._database.read(
            lambda db: db.execute(
                f"""SELECT shard, {_SUMMARY} FROM session
                    WHERE (shard, path) > (?, ?) AND substr(path, 1, ?) = ? ORDER BY shard, path LIMIT ?""",
                (shard, path, len(prefix), prefix, limit),
            ).fetchall()
        )
        return [(row[0], _summary(row[1:])) for row in rows]

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        def script(db: sqlite3.Connection) -> None:
            _check_fence(db, owner)
            for table in ("session", "history", "journal"):
                db.execute(f"DELETE FROM {table} WHERE path = ?", (key.path,))
            for message_id, record in cancelled.items():
                _settle(db, key, message_id, record, now)

        await self._database.write(script)

    async def forget(self, now: float, idle_since: float) -> None:
        def script(db: sqlite3.Connection) -> None:
            old = now - RECORD_KEPT
            db.execute("DELETE FROM record WHERE settled < ? AND fate NOT IN (?, ?)", (old, *_KEPT_UNTIL_REDRIVEN))
            db.execute("DELETE FROM verb WHERE recorded < ?", (old,))
            db.execute(
                """DELETE FROM stream WHERE touched < ? AND NOT EXISTS (
                    SELECT 1 FROM inbox WHERE inbox.path = stream.path AND inbox.stream = stream.stream)""",
                (old,),
            )
            idle = """SELECT path FROM session WHERE updated < ?
                AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.path = session.path)"""
            db.execute(f"DELETE FROM history WHERE path IN ({idle})", (idle_since,))
            db.execute(f"DELETE FROM session WHERE path IN ({idle})", (idle_since,))

        await self._database.write(script)


def _check_fence(db: sqlite3.Connection, owner: Owner) -> None:
    row = db.execute("SELECT epoch, instance FROM fence WHERE shard = ?", (owner.shard,)).fetchone()
    if row is not None and (row[0] > owner.epoch or (row[0] == owner.epoch and row[1] != owner.instance)):
        raise Fenced(owner.shard, row[0])


def _check_verbs(db: sqlite3.Connection, key: SessionKey, message_id: str) -> None:
    if db.execute(
        "SELECT 1 FROM verb WHERE path = ? AND message_id = ? AND answer IN (?, ?)", (key.path, message_id, *_BINDING)
    ).fetchone():
        raise CancelRecorded("CANCELLED", f"{key}: a CANCEL was recorded for {message_id}")


def _known(db: sqlite3.Connection, key: SessionKey, message_id: str) -> bool:
    """Whether a message of this id waits, runs under a mark, was settled, or was cancelled before it came."""
    name = (key.path, message_id)
    return (
        db.execute("SELECT 1 FROM inbox WHERE path = ? AND message_id = ? AND skip = 0", name).fetchone() is not None
        or db.execute("SELECT 1 FROM record WHERE path = ? AND message_id = ?", name).fetchone() is not None
    )


def _position(db: sqlite3.Connection, key: SessionKey, stream: str) -> Position:
    row = db.execute("SELECT settled, gaps FROM stream WHERE path = ? AND stream = ?", (key.path, stream)).fetchone()
    return Position() if row is None else Position(row[0], _gaps(row[1]))


def _save_position(db: sqlite3.Connection, key: SessionKey, stream: str, position: Position, now: float) -> None:
    db.execute(
        "INSERT OR REPLACE INTO stream (path, stream, settled, gaps, touched) VALUES (?, ?, ?, ?, ?)",
        (key.path, stream, position.settled, ",".join(map(str, sorted(position.gaps))), now),
    )


def _gaps(text: str) -> frozenset[int]:
    return frozenset(map(int, text.split(","))) if text else frozenset()


def _insert(
    db: sqlite3.Connection, shard: int, key: SessionKey, entry: Entry, envelope: bytes, *, skip: bool, at_head: bool
) -> None:
    place = "min(place), 0) - 1" if at_head else "max(place), 0) + 1"
    db.execute(
        f"""INSERT INTO inbox (path, shard, envelope, place, {_ENTRY})
            VALUES (?, ?, ?, (SELECT coalesce({place} FROM inbox WHERE path = ?), {", ".join("?" * 12)})""",
        (
            key.path,
            shard,
            envelope,
            key.path,
            entry.number.stream,
            entry.number.sequence,
            entry.message_id,
            entry.digest,
            entry.placed,
            skip,
            entry.attempts,
            entry.failures,
            entry.starts,
            entry.not_before,
            entry.first_failed,
            entry.running,
        ),
    )


def _remove(db: sqlite3.Connection, key: SessionKey, number: Number) -> None:
    db.execute(
        "DELETE FROM inbox WHERE path = ? AND stream = ? AND sequence = ?",
        (key.path, number.stream, number.sequence),
    )


def _settle(db: sqlite3.Connection, key: SessionKey, message_id: str, record: Record, now: float) -> None:
    """Write the record; what waits under this id keeps its place as a SKIP; the journal of a DEAD message stays."""
    name = (key.path, message_id)
    db.execute(
        "INSERT OR REPLACE INTO record (path, message_id, fate, status, digest, settled) VALUES (?, ?, ?, ?, ?, ?)",
        (*name, record.fate, record.status, record.digest, now),
    )
    db.execute("UPDATE inbox SET skip = 1 WHERE path = ? AND message_id = ?", name)
    if record.fate not in _KEPT_UNTIL_REDRIVEN:
        db.execute("DELETE FROM journal WHERE path = ? AND message_id = ?", name)


def _save_session(db: sqlite3.Connection, shard: int, commit: TurnCommit, version: int) -> None:
    path = commit.key.path
    db.execute(
        """INSERT INTO session (path, shard, version, turns, state, usage, created, updated)
            VALUES (:path, :shard, :version, 1, coalesce(:state, x''), coalesce(:usage, x''), :now, :now)
            ON CONFLICT (path) DO UPDATE SET version = :version, turns = turns + 1,
                state = coalesce(:state, state), usage = coalesce(:usage, usage), updated = :now""",
        {
            "path": path,
            "shard": shard,
            "version": version,
            "state": commit.state,
            "usage": commit.usage,
            "now": commit.now,
        },
    )
    if commit.history is not None:
        db.execute("INSERT INTO history (path, version, delta) VALUES (?, ?, ?)", (path, version, commit.history))


def _entry(row: tuple[object, ...]) -> Entry:
    stream, sequence, message_id, digest, placed, skip, attempts, failures, starts, not_before, first_failed, run = row
    return Entry(
        Number(stream, sequence),  # type: ignore[arg-type]
        message_id,  # type: ignore[arg-type]
        digest,  # type: ignore[arg-type]
        placed,  # type: ignore[arg-type]
        bool(skip),
        attempts,  # type: ignore[arg-type]
        failures,  # type: ignore[arg-type]
        starts,  # type: ignore[arg-type]
        not_before,  # type: ignore[arg-type]
        first_failed,  # type: ignore[arg-type]
        bool(run),
    )


def _summary(row: tuple[object, ...]) -> SessionSummary:
    path, version, turns, waiting, usage, created, updated = row
    return SessionSummary(SessionKey.parse(path), version, turns, waiting, usage, created, updated)  # type: ignore[arg-type]
