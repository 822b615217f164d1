"""A RevisionStore in one SQLite file, each write on disk when it returns."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from google.protobuf.message import DecodeError

from troupe.chassis.errors import Aborted, DataLoss
from troupe.chassis.sqlite import Database, Schema
from troupe.controlplane.placement import Assignment, Member, Placement
from troupe.controlplane.revisions import Head, Summary, summary
from troupe.controlplane.stores.port import KEPT_REVISIONS, KnownWorker
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import RevisionAttempt

SCHEMA = Schema(
    name="controlplane",
    version=1,
    statements=(
        "CREATE TABLE deployment (term INTEGER NOT NULL, shard_count INTEGER NOT NULL,"
        " placement_version INTEGER NOT NULL)",
        "CREATE TABLE revisions (generation INTEGER PRIMARY KEY, term INTEGER NOT NULL,"
        " revision_id TEXT NOT NULL UNIQUE, parent_revision_id TEXT NOT NULL, content_hash TEXT NOT NULL,"
        " created_at REAL NOT NULL, resource_count INTEGER NOT NULL, config BLOB NOT NULL)",
        "CREATE TABLE placement (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, worker_id TEXT NOT NULL,"
        " instance_id TEXT NOT NULL, address TEXT NOT NULL)",
        "CREATE TABLE workers (worker_id TEXT PRIMARY KEY, instance_id TEXT NOT NULL, address TEXT NOT NULL,"
        " last_attempt BLOB) WITHOUT ROWID",
    ),
)

_SUMMARY = "revision_id, parent_revision_id, generation, term, content_hash, created_at, resource_count"


class SqliteRevisionStore:
    """Open one with `opened`. The file belongs to one control plane at a time."""

    def __init__(self, database: Database, shard_count: int) -> None:
        self._database = database
        self.shard_count = shard_count

    @staticmethod
    @asynccontextmanager
    async def opened(path: Path, shard_count: int) -> AsyncIterator["SqliteRevisionStore"]:
        """The store in the file, which is created where it is missing: `shard_count` counts only then. Raises what
        `Database.opened` does."""

        def prepare(connection: sqlite3.Connection) -> int:
            found = connection.execute("SELECT shard_count FROM deployment").fetchone()
            if found is None:
                connection.execute("INSERT INTO deployment VALUES (1, ?, 0)", (shard_count,))
            return int(found[0]) if found else shard_count

        async with Database.opened(path, SCHEMA) as database:
            yield SqliteRevisionStore(database, await database.write(prepare))

    async def head(self) -> Head:
        return await self._database.read(_head)

    async def commit(self, config: ConfigSpec, created_at: float, after: Head) -> None:
        about = summary(config, created_at)
        row = (
            about.revision_id,
            about.parent_revision_id,
            about.generation,
            about.term,
            about.content_hash,
            about.created_at,
            about.resource_count,
            config.SerializeToString(),
        )

        def append(connection: sqlite3.Connection) -> None:
            head = _head(connection)
            if (head.generation, head.term) != (after.generation, after.term):
                raise Aborted("REVISION_CONFLICT", f"revision {head.revision_id} was committed first; decide again")
            connection.execute(f"INSERT INTO revisions ({_SUMMARY}, config) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("DELETE FROM revisions WHERE generation <= ?", (about.generation - KEPT_REVISIONS,))

        await self._database.write(append)

    async def revision(self, revision_id: str) -> tuple[ConfigSpec, Summary] | None:
        row = await self._database.read(
            lambda connection: connection.execute(
                f"SELECT {_SUMMARY}, config FROM revisions WHERE revision_id = ?", (revision_id,)
            ).fetchone()
        )
        if row is None:
            return None
        try:
            return ConfigSpec.FromString(row[-1]), Summary(*row[:-1])
        except DecodeError as error:
            raise self._unreadable(f"revision {revision_id}") from error

    async def revisions(self, limit: int, before: int | None = None) -> list[Summary]:
        rows = await self._database.read(
            lambda connection: connection.execute(
                f"SELECT {_SUMMARY} FROM revisions WHERE ? IS NULL OR generation < ? ORDER BY generation DESC LIMIT ?",
                (before, before, limit),
            ).fetchall()
        )
        return [Summary(*row) for row in rows]

    async def placement(self) -> Placement:
        def load(connection: sqlite3.Connection) -> Placement:
            ((version,),) = connection.execute("SELECT placement_version FROM deployment")
            shards: list[Assignment | None] = [None] * self.shard_count
            rows = connection.execute("SELECT shard, epoch, worker_id, instance_id, address FROM placement")
            for shard, epoch, *owner in rows:
                shards[shard] = Assignment(epoch, Member(*owner))
            return Placement(version, tuple(shards))

        return await self._database.read(load)

    async def save_placement(self, placement: Placement, term: int) -> None:
        rows = [
            (number, shard.epoch, shard.owner.worker_id, shard.owner.instance_id, shard.owner.address)
            for number, shard in enumerate(placement.shards)
            if shard is not None
        ]

        def save(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE deployment SET placement_version = ? WHERE placement_version = ? AND term = ?",
                (placement.version, placement.version - 1, term),
            )
            if changed.rowcount == 0:
                raise Aborted("PLACEMENT_CONFLICT", "another placement was stored first; decide again")
            connection.execute("DELETE FROM placement")
            connection.executemany("INSERT INTO placement VALUES (?, ?, ?, ?, ?)", rows)

        await self._database.write(save)

    async def workers(self) -> Sequence[KnownWorker]:
        rows = await self._database.read(
            lambda connection: connection.execute(
                "SELECT worker_id, instance_id, address, last_attempt FROM workers ORDER BY worker_id"
            ).fetchall()
        )
        try:
            return [
                KnownWorker(Member(*member), RevisionAttempt.FromString(attempt) if attempt is not None else None)
                for *member, attempt in rows
            ]
        except DecodeError as error:
            raise self._unreadable("a worker's last attempt") from error

    async def remember_worker(self, worker: KnownWorker) -> None:
        member, attempt = worker.member, worker.last_attempt
        serialised = attempt.SerializeToString() if attempt is not None else None
        row = (member.worker_id, member.instance_id, member.address, serialised)
        await self._database.write(
            lambda connection: connection.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?)", row)
        )

    async def forget_worker(self, worker_id: str) -> None:
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM workers WHERE worker_id = ?", (worker_id,))
        )

    def _unreadable(self, what: str) -> DataLoss:
        return DataLoss(
            "DATA_BROKEN", f"{what} in {self._database.path} cannot be read; restore the file from a backup"
        )


def _head(connection: sqlite3.Connection) -> Head:
    ((term,),) = connection.execute("SELECT term FROM deployment")
    newest = connection.execute(
        "SELECT generation, revision_id FROM revisions ORDER BY generation DESC LIMIT 1"
    ).fetchone()
    return Head(newest[0], term, newest[1]) if newest else Head(0, term)
