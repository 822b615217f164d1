"""A RevisionStore in one SQLite file, each write on disk when it returns."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError

from troupe.chassis.errors import DataLoss
from troupe.chassis.sqlite import Database
from troupe.controlplane.placement import Placement
from troupe.controlplane.revisions import Head, Summary, summary
from troupe.controlplane.stores import rules
from troupe.controlplane.stores import sqlite_tables as tables
from troupe.controlplane.stores.port import KnownWorker, Leadership
from troupe.controlplane.stores.sqlite_tables import SCHEMA, SUMMARY, WORKER
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout, RolloutStage

T = TypeVar("T")


class SqliteRevisionStore:
    """Open one with `opened`. Any number of control planes of one host may have the file open."""

    def __init__(self, database: Database, shard_count: int) -> None:
        self._database = database
        self.shard_count = shard_count

    @staticmethod
    @asynccontextmanager
    async def opened(path: Path, shard_count: int) -> AsyncIterator["SqliteRevisionStore"]:
        """The store in the file, which is created where it is missing: `shard_count` counts only then. Where no other
        process has it, nobody leads: whoever did is gone, and need not be waited for. Raises what `Database.shared`
        does."""

        def begin(connection: sqlite3.Connection) -> None:
            if connection.execute("SELECT 1 FROM deployment").fetchone() is None:
                connection.execute(
                    "INSERT INTO deployment (term, shard_count, placement_version) VALUES (0, ?, 0)", (shard_count,)
                )
            tables.save_leadership(connection, Leadership(tables.leadership(connection).term))

        def count(connection: sqlite3.Connection) -> int:
            (found,) = tables.deployment(connection, "shard_count")
            return int(found)

        async with Database.shared(path, SCHEMA, begin) as database:
            yield SqliteRevisionStore(database, await database.read(count))

    async def leadership(self) -> Leadership:
        return await self._database.read(tables.leadership)

    async def lead(self, seen: Leadership, holder: str, address: str, beyond: int = 0) -> Leadership:
        return await self._change(seen, rules.led(seen, holder, address, beyond))

    async def renew(self, held: Leadership) -> Leadership:
        return await self._change(held, rules.renewed(held))

    async def resign(self, held: Leadership) -> None:
        def resign(connection: sqlite3.Connection) -> None:
            if rules.still(tables.leadership(connection), held):
                tables.save_leadership(connection, Leadership(held.term))

        await self._database.write(resign)

    async def head(self) -> Head:
        return await self._database.read(lambda connection: _at_once(connection, lambda: tables.head(connection)))

    async def commit(self, config: ConfigSpec, created_at: float, after: Head, rollouts: Sequence[Rollout]) -> None:
        own, *before = rollouts
        serialised, about = config.SerializeToString(), summary(config, created_at)

        def append(connection: sqlite3.Connection) -> None:
            rules.follows(tables.head(connection), after)
            for rollout in before:
                tables.save_rollout(connection, after.revision_id, rollout)
            tables.insert_revision(connection, serialised, about, own)
            tables.drop_outdated(connection, rules.outdated(about.generation))

        await self._database.write(append)

    async def revision(self, revision_id: str) -> tuple[ConfigSpec, Summary] | None:
        return await self._found("WHERE revision_id = ?", (revision_id,), f"revision {revision_id}")

    async def revisions(self, limit: int, before: int | None = None) -> list[Summary]:
        rows = await self._database.read(
            lambda connection: connection.execute(
                f"SELECT {SUMMARY} FROM revisions WHERE ? IS NULL OR generation < ? ORDER BY generation DESC LIMIT ?",
                (before, before, limit),
            ).fetchall()
        )
        return self._decoded(lambda: [tables.summary(row) for row in rows], "a revision's rollout")

    async def last_complete(self, before: int) -> tuple[ConfigSpec, Summary] | None:
        return await self._found(
            "WHERE generation < ? AND stage = ? ORDER BY generation DESC LIMIT 1",
            (before, RolloutStage.ROLLOUT_STAGE_COMPLETE),
            "the newest complete revision",
        )

    async def save_rollouts(self, rollouts: Sequence[tuple[str, Rollout]], term: int) -> None:
        def save(connection: sqlite3.Connection) -> None:
            for revision_id, rollout in rollouts:
                tables.save_rollout(connection, revision_id, rollout)

        await self._in_term(term, save)

    async def placement(self) -> Placement:
        return await self._database.read(
            lambda connection: self._decoded(
                lambda: _at_once(connection, lambda: tables.placement(connection, self.shard_count)), "the placement"
            )
        )

    async def save_placement(self, placement: Placement, term: int) -> None:
        rows = list(tables.assignments(placement))

        def save(connection: sqlite3.Connection) -> None:
            (stored,) = tables.deployment(connection, "placement_version")
            rules.next_placement(stored, placement)
            connection.execute("UPDATE deployment SET placement_version = ?", (placement.version,))
            connection.execute("DELETE FROM placement")
            connection.executemany("INSERT INTO placement VALUES (?, ?, ?, ?, ?, ?)", rows)

        await self._in_term(term, save)

    async def workers(self) -> Sequence[KnownWorker]:
        rows = await self._database.read(
            lambda connection: connection.execute(f"SELECT {WORKER} FROM workers ORDER BY worker_id").fetchall()
        )
        return self._decoded(lambda: [tables.worker(row) for row in rows], "what is known of a worker")

    async def remember_worker(self, worker: KnownWorker, term: int) -> None:
        row = tables.worker_row(worker)
        await self._in_term(
            term,
            lambda connection: connection.execute(
                f"INSERT OR REPLACE INTO workers ({WORKER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
            ),
        )

    async def forget_worker(self, worker_id: str, term: int) -> None:
        await self._in_term(
            term, lambda connection: connection.execute("DELETE FROM workers WHERE worker_id = ?", (worker_id,))
        )

    async def _change(self, seen: Leadership, record: Leadership) -> Leadership:
        def change(connection: sqlite3.Connection) -> None:
            rules.unchanged(tables.leadership(connection), seen)
            tables.save_leadership(connection, record)

        await self._database.write(change)
        return record

    async def _in_term(self, term: int, write: Callable[[sqlite3.Connection], object]) -> None:
        def guarded(connection: sqlite3.Connection) -> None:
            rules.in_term(tables.leadership(connection).term, term)
            write(connection)

        await self._database.write(guarded)

    async def _found(self, where: str, arguments: tuple[object, ...], what: str) -> tuple[ConfigSpec, Summary] | None:
        row = await self._database.read(
            lambda connection: connection.execute(
                f"SELECT {SUMMARY}, config FROM revisions {where}", arguments
            ).fetchone()
        )
        return None if row is None else self._decoded(lambda: tables.revision(row), what)

    def _decoded(self, decode: Callable[[], T], what: str) -> T:
        try:
            return decode()
        except (DecodeError, LookupError, TypeError) as error:
            raise DataLoss(
                "DATA_BROKEN", f"{what} in {self._database.path} cannot be read; restore the file from a backup"
            ) from error


def _at_once(connection: sqlite3.Connection, read: Callable[[], T]) -> T:
    """What several reads find, all of one moment."""
    connection.execute("BEGIN")
    try:
        return read()
    finally:
        connection.rollback()
