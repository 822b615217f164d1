"""Session state in one SQLite file: each script is one job of a group-committed transaction."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.sqlite import Database
from troupe.dataplane.state import rules
from troupe.dataplane.state import sqlite_rows as rows
from troupe.dataplane.state import sqlite_tables as tables
from troupe.dataplane.state.port import (
    RECORD_KEPT,
    Attempt,
    Backlog,
    Begun,
    Entry,
    Loaded,
    Mark,
    Owner,
    Placed,
    Record,
    SessionSummary,
    TurnCommit,
)
from troupe.dataplane.state.sqlite_rows import MESSAGE, NUMBER
from troupe.dataplane.state.sqlite_tables import AWAITS, BINDING, SCHEMA, SUMMARY
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer

FORGOTTEN_AT_ONCE = 256
"""Rows that one transaction of `forget` drops: some milliseconds, which turns wait."""


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

    async def declare(self, shards: int) -> None:
        def script(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR IGNORE INTO fleet (shards, fleet) VALUES (?, 0)", (shards,))
            (declared,) = db.execute("SELECT shards FROM fleet").fetchone()
            if declared != shards:
                raise rules.shards_changed(declared, shards)

        await self._database.write(script)

    async def claim(self, owner: Owner) -> Sequence[SessionKey]:
        def script(db: sqlite3.Connection) -> list[SessionKey]:
            rows.admit(db, owner)
            due = db.execute(_DUE, (owner.shard, owner.shard))
            return [SessionKey.parse(path) for (path,) in due]

        return await self._database.write(script)

    async def load(self, key: SessionKey) -> Loaded:
        def script(db: sqlite3.Connection) -> Loaded:
            # One transaction, so that all parts are of one moment.
            db.execute("BEGIN")
            try:
                return rows.load(db, key.path)
            finally:
                db.rollback()

        return await self._database.read(script)

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> Placed:
        def script(db: sqlite3.Connection) -> Placed:
            rows.admit(db, owner)
            settled, gaps, there, live, fate, tombstone = db.execute(
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
                waits=waits is not None,
                live=bool(live),
                fate=fate,
                tombstone=tombstone,
            )
            if placed in (Placed.NEW, Placed.SKIPPED):
                placing = replace(entry, skip=placed is Placed.SKIPPED)
                rows.insert(db, owner.shard, key, placing, envelope, at_head=entry.running is not None)
                rows.comes_again(db, key, placing, fate)
            elif waits is not None and rules.marks(entry, waits):
                rows.rewrite(db, key, replace(waits, running=entry.running))
            if record is not None:
                rows.settle(db, key, entry.message_id, record, entry.placed)
            return placed

        return await self._database.write(script)

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        def script(db: sqlite3.Connection) -> Begun:
            rows.admit(db, owner)
            waits = rows.waits(db, key, entry.number)
            started = rules.started(owner, entry, waits)
            if started != waits:
                rows.rewrite(db, key, started)
            journal = db.execute(
                f"SELECT step, content FROM journal WHERE {MESSAGE} AND digest = ?",
                (key.path, started.message_id, started.digest),
            )
            return Begun(rows.envelope(db, key, entry.number), dict(journal.fetchall()))

        return await self._database.write(script)

    async def take_over(self, owner: Owner, key: SessionKey, number: Number, mark: Mark) -> bool:
        def script(db: sqlite3.Connection) -> bool:
            rows.admit(db, owner)
            taken = rules.taken_over(rows.waits(db, key, number), mark)
            if taken is not None:
                rows.rewrite(db, key, taken, at_head=True)
            return taken is not None

        return await self._database.write(script)

    async def journal(
        self, owner: Owner, key: SessionKey, attempt: Attempt, steps: Mapping[str, bytes], *, starts: bool
    ) -> None:
        def script(db: sqlite3.Connection) -> None:
            found = rows.found(db, key, attempt.number, attempt.message_id)
            rows.admit(db, owner, found.waits)
            if rules.may_keep(attempt, found, starts=starts):
                db.executemany(
                    "INSERT OR IGNORE INTO journal (path, message_id, digest, step, content) VALUES (?, ?, ?, ?, ?)",
                    [(key.path, attempt.message_id, attempt.digest, *kept) for kept in steps.items()],
                )

        await self._database.write(script)

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        def script(db: sqlite3.Connection) -> None:
            found = rows.found(db, key, entry.number, entry.message_id)
            rows.admit(db, owner, found.waits)
            if not rules.puts_back(entry, found):
                return
            body = envelope
            if found.waits is not None:
                body = rows.envelope(db, key, entry.number)
                rows.remove(db, owner.shard, key, entry.number)
            rows.insert(db, owner.shard, key, replace(entry, running=None), body, at_head=True)
            rows.comes_again(db, key, entry, found.fate)

        await self._database.write(script)

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        def script(db: sqlite3.Connection) -> int:
            key, number, record = commit.key, commit.number, commit.record
            found = rows.found(db, key, number, commit.message_id)
            rows.admit(db, owner, found.waits)
            position = rules.settled(commit, found)
            if position is None:
                return found.version
            rows.save_position(db, key, number.stream, position, commit.now)
            if found.waits is not None:
                rows.remove(db, owner.shard, key, number)
            if record is not None:
                rows.settle(db, key, commit.message_id, record, commit.now)
            if found.fate in rules.REDRIVABLE:
                rows.came(db, key, commit.message_id, number)
            if record is None or record.fate != turn_pb2.FATE_DONE:
                return found.version
            rows.save_session(db, owner.shard, commit, found.version + 1)
            return found.version + 1

        return await self._database.write(script)

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        def script(db: sqlite3.Connection) -> bool:
            rows.admit(db, owner)
            settled, gaps, waits = db.execute(
                _RUN,
                {
                    "path": key.path,
                    "stream": number.stream,
                    "first": number.sequence,
                    "last": number.sequence + count - 1,
                },
            ).fetchone()
            position = rules.passed_over(tables.position(settled, gaps), number, count, waits=bool(waits))
            if position is not None:
                rows.save_position(db, key, number.stream, position, now)
            return position is not None

        return await self._database.write(script)

    async def strike(self, owner: Owner, key: SessionKey, numbers: Sequence[Number]) -> None:
        def script(db: sqlite3.Connection) -> None:
            rows.admit(db, owner)
            db.executemany(
                f"DELETE FROM outbox WHERE {NUMBER}", [(key.path, each.stream, each.sequence) for each in numbers]
            )

        await self._database.write(script)

    async def backlog(self, shard: int) -> Backlog:
        return await self._counted("SELECT messages, bytes FROM backlog WHERE shard = ?", shard)

    async def session_backlog(self, key: SessionKey) -> Backlog:
        return await self._counted(_SESSION_BACKLOG, key.path)

    async def redrive(self, key: SessionKey, message_id: str, number: Number) -> None:
        def script(db: sqlite3.Connection) -> None:
            found = rows.found(db, key, number, message_id)
            if rules.is_awaited(found.position, number, found.fate):
                rows.await_(db, key, message_id, number)

        await self._database.write(script)

    async def purge(self, key: SessionKey, message_id: str) -> None:
        def script(db: sqlite3.Connection) -> None:
            fate, awaited = rows.standing(db, key, message_id)
            if rules.is_purged(fate, awaited=awaited, live=bool(rows.waiting(db, key, message_id))):
                db.execute(f"UPDATE record SET stays = 0 WHERE {MESSAGE}", (key.path, message_id))

        await self._database.write(script)

    async def record(self, key: SessionKey, message_id: str) -> Record | None:
        row = await self._database.read(
            lambda db: db.execute(_RECORD, {"path": key.path, "message_id": message_id}).fetchone()
        )
        if row is None:
            return None
        fate, status, digest, awaited, live = row
        return Record(fate, status, digest, rules.is_redriven(fate, awaited=bool(awaited), live=bool(live)))

    async def waiting(self, key: SessionKey, message_id: str) -> Entry | None:
        return next(iter(await self._database.read(lambda db: rows.waiting(db, key, message_id))), None)

    async def cancel(
        self, key: SessionKey, message_id: str, verb_id: str, cancelled: Record, now: float
    ) -> VerbAnswer.ValueType:
        def script(db: sqlite3.Connection) -> VerbAnswer.ValueType:
            name = (key.path, message_id)
            seen = db.execute(f"SELECT answer FROM verb WHERE {MESSAGE} AND verb_id = ?", (*name, verb_id)).fetchone()
            if seen is not None:
                return seen[0]  # type: ignore[no-any-return]
            waiting = rows.waiting(db, key, message_id)
            fate, awaited = rows.standing(db, key, message_id)
            journaled = db.execute(f"SELECT 1 FROM journal WHERE {MESSAGE}", name).fetchone() is not None
            answer, at_once = rules.cancel_answer(waiting, fate, awaited=awaited, journaled=journaled)
            db.execute(
                "INSERT INTO verb (path, message_id, verb_id, answer, status, recorded) VALUES (?, ?, ?, ?, ?, ?)",
                (*name, verb_id, answer, cancelled.status, now),
            )
            if at_once:
                rows.settle(db, key, message_id, replace(cancelled, digest=waiting[0].digest), now)
            return answer

        return await self._database.write(script)

    async def summary(self, key: SessionKey) -> SessionSummary | None:
        row = await self._database.read(
            lambda db: db.execute(f"SELECT {SUMMARY} FROM session WHERE path = ?", (key.path,)).fetchone()
        )
        return None if row is None else tables.summary(row)

    async def summaries(
        self, prefix: str, after: tuple[int, str] | None, limit: int
    ) -> Sequence[tuple[int, SessionSummary]]:
        def script(db: sqlite3.Connection) -> list[tuple[int, SessionSummary]]:
            page: list[tuple[int, SessionSummary]] = []
            # Shard by shard: within one, the prefix is a range of the index.
            shard, last = after or (-1, "")
            while len(page) < limit:
                first, end = max(prefix, last), f"{prefix}\U0010ffff"
                listed = db.execute(_PAGE, (shard, first, end, last, limit - len(page)))
                page += [(shard, tables.summary(row)) for row in listed]
                (following,) = db.execute("SELECT min(shard) FROM session WHERE shard > ?", (shard,)).fetchone()
                if following is None:
                    break
                shard, last = following, ""
            return page

        return await self._database.read(script)

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        def script(db: sqlite3.Connection) -> None:
            rows.admit(db, owner)
            db.execute("DELETE FROM session WHERE path = ?", (key.path,))
            db.execute("DELETE FROM history WHERE path = ?", (key.path,))
            for message_id, record in cancelled.items():
                rows.settle(db, key, message_id, record, now)

        await self._database.write(script)

    async def forget(self, now: float, idle_since: float) -> None:
        await self._repeat(_dropping_records(now - RECORD_KEPT))
        for outdated in _OUTDATED:
            await self._repeat(_dropping(outdated, now - RECORD_KEPT))
        await self._repeat(_dropping_sessions(idle_since))

    async def _counted(self, query: str, name: int | str) -> Backlog:
        row = await self._database.read(lambda db: db.execute(query, (name,)).fetchone())
        return Backlog(*(row or (0, 0)))

    async def _repeat(self, drop: Callable[[sqlite3.Connection], int]) -> None:
        while await self._database.write(drop) > 0:
            pass


def _dropping(outdated: str, before: float) -> Callable[[sqlite3.Connection], int]:
    return lambda db: db.execute(outdated, (before, FORGOTTEN_AT_ONCE)).rowcount


def _dropping_records(before: float) -> Callable[[sqlite3.Connection], int]:
    def drop(db: sqlite3.Connection) -> int:
        gone = db.execute(
            """DELETE FROM record WHERE rowid IN (SELECT rowid FROM record WHERE settled < ? AND stays = 0 LIMIT ?)
                RETURNING path, message_id, fate""",
            (before, FORGOTTEN_AT_ONCE),
        ).fetchall()
        # Of other fates no journal is left.
        purged = [(path, message_id) for path, message_id, fate in gone if fate in rules.REDRIVABLE]
        db.executemany(f"DELETE FROM journal WHERE {MESSAGE}", purged)
        return len(gone)

    return drop


def _dropping_sessions(idle_since: float) -> Callable[[sqlite3.Connection], int]:
    def drop(db: sqlite3.Connection) -> int:
        idle = db.execute(
            """SELECT path FROM session WHERE updated < ?
                AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.path = session.path)
                AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.path = session.path) LIMIT 16""",
            (idle_since,),
        ).fetchall()
        db.executemany("DELETE FROM session WHERE path = ?", idle)
        db.executemany("DELETE FROM history WHERE path = ?", idle)
        # A dead letter's journal stays with its record.
        db.executemany(
            """DELETE FROM journal WHERE path = ? AND NOT EXISTS (
                SELECT 1 FROM record WHERE record.path = journal.path AND record.message_id = journal.message_id)""",
            idle,
        )
        return len(idle)

    return drop


_SESSION_BACKLOG = """
    SELECT messages, bytes FROM session_backlog
    WHERE path = ?1 AND shard = (SELECT shard FROM inbox WHERE path = ?1 LIMIT 1)
"""
_DUE = "SELECT path FROM session_backlog WHERE shard = ? UNION SELECT path FROM outbox WHERE shard = ?"
_PLACE = f"""
    SELECT stream.settled, stream.gaps,
        EXISTS (SELECT 1 FROM inbox WHERE path = :path AND inbox.stream = :stream AND sequence = :sequence),
        EXISTS (SELECT 1 FROM inbox WHERE path = :path AND message_id = :message_id AND skip = 0),
        (SELECT fate FROM record WHERE path = :path AND message_id = :message_id),
        (SELECT status FROM verb WHERE path = :path AND message_id = :message_id AND answer IN {BINDING}
            AND NOT EXISTS (SELECT 1 FROM journal WHERE path = :path AND message_id = :message_id)
            ORDER BY rowid LIMIT 1)
    FROM (SELECT 1) LEFT JOIN stream ON stream.path = :path AND stream.stream = :stream
"""
_RECORD = f"""
    SELECT fate, status, digest, {AWAITS},
        EXISTS (SELECT 1 FROM inbox WHERE path = :path AND message_id = :message_id AND skip = 0)
    FROM record WHERE path = :path AND message_id = :message_id
"""
_RUN = """
    SELECT stream.settled, stream.gaps,
        EXISTS (SELECT 1 FROM inbox WHERE path = :path AND stream = :stream AND sequence BETWEEN :first AND :last)
    FROM (SELECT 1) LEFT JOIN stream ON stream.path = :path AND stream.stream = :stream
"""
_PAGE = f"""
    SELECT {SUMMARY} FROM session WHERE shard = ? AND path >= ? AND path < ? AND path <> ? ORDER BY path LIMIT ?
"""
_OUTDATED = (
    """DELETE FROM verb WHERE rowid IN (
        SELECT rowid FROM verb WHERE recorded < ? AND NOT EXISTS (
            SELECT 1 FROM inbox WHERE inbox.path = verb.path AND inbox.message_id = verb.message_id AND skip = 0)
        LIMIT ?)""",
    """DELETE FROM stream WHERE rowid IN (
        SELECT rowid FROM stream WHERE touched < ? AND NOT EXISTS (
            SELECT 1 FROM inbox WHERE inbox.path = stream.path AND inbox.stream = stream.stream) LIMIT ?)""",
    """DELETE FROM sent WHERE rowid IN (
        SELECT rowid FROM sent WHERE at < ? AND NOT EXISTS (
            SELECT 1 FROM outbox WHERE outbox.path = sent.path AND outbox.stream = sent.stream) LIMIT ?)""",
)
