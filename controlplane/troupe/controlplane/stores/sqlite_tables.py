"""The tables of the SQLite revision store, and how values of the port stand in their rows."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from troupe.chassis.errors import DataLoss
from troupe.chassis.sqlite import Schema
from troupe.controlplane.placement import Assignment, Member, Placement
from troupe.controlplane.revisions import Head, Summary
from troupe.controlplane.stores.port import KnownWorker, Leadership
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout, RolloutStage
from troupe.v1.status_pb2 import Capacity, RevisionAttempt

_COMPLETE, _SUPERSEDED = RolloutStage.ROLLOUT_STAGE_COMPLETE, RolloutStage.ROLLOUT_STAGE_SUPERSEDED


def _migrated(stage: RolloutStage.ValueType) -> str:
    return f"stage = {stage}, rollout = x'{Rollout(stage=stage).SerializeToString().hex()}'"


SCHEMA = Schema(
    name="controlplane",
    version=2,
    statements=(
        "CREATE TABLE deployment (term INTEGER NOT NULL, shard_count INTEGER NOT NULL,"
        " placement_version INTEGER NOT NULL, holder TEXT NOT NULL DEFAULT '', address TEXT NOT NULL DEFAULT '',"
        " renewals INTEGER NOT NULL DEFAULT 0)",
        "CREATE TABLE revisions (generation INTEGER PRIMARY KEY, term INTEGER NOT NULL,"
        " revision_id TEXT NOT NULL UNIQUE, parent_revision_id TEXT NOT NULL, content_hash TEXT NOT NULL,"
        " created_at REAL NOT NULL, resource_count INTEGER NOT NULL, config BLOB NOT NULL,"
        " stage INTEGER NOT NULL DEFAULT 0, rollout BLOB NOT NULL DEFAULT x'')",
        "CREATE TABLE placement (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, worker_id TEXT NOT NULL,"
        " instance_id TEXT NOT NULL, address TEXT NOT NULL, revoked INTEGER NOT NULL DEFAULT 0)",
        "CREATE TABLE workers (worker_id TEXT PRIMARY KEY, instance_id TEXT NOT NULL, address TEXT NOT NULL,"
        " last_attempt BLOB, capacity BLOB NOT NULL DEFAULT x'', weight REAL, draining INTEGER NOT NULL DEFAULT 0,"
        " replaced TEXT NOT NULL DEFAULT '') WITHOUT ROWID",
    ),
    migrations={
        1: (
            "ALTER TABLE deployment ADD COLUMN holder TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE deployment ADD COLUMN address TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE deployment ADD COLUMN renewals INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE revisions ADD COLUMN stage INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE revisions ADD COLUMN rollout BLOB NOT NULL DEFAULT x''",
            # Revisions went to all workers at once: the newest is what they run, and what a bad one goes back to.
            f"UPDATE revisions SET {_migrated(_SUPERSEDED)}",
            f"UPDATE revisions SET {_migrated(_COMPLETE)} WHERE generation = (SELECT MAX(generation) FROM revisions)",
            "ALTER TABLE placement ADD COLUMN revoked INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE workers ADD COLUMN capacity BLOB NOT NULL DEFAULT x''",
            "ALTER TABLE workers ADD COLUMN weight REAL",
            "ALTER TABLE workers ADD COLUMN draining INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE workers ADD COLUMN replaced TEXT NOT NULL DEFAULT ''",
        )
    },
)

SUMMARY = "revision_id, parent_revision_id, generation, term, content_hash, created_at, resource_count, rollout"
WORKER = "worker_id, instance_id, address, last_attempt, capacity, weight, draining, replaced"


def deployment(connection: sqlite3.Connection, columns: str) -> Sequence[Any]:
    """Columns of the one row of the table deployment. Raises DataLoss where there is none."""
    row: Sequence[Any] | None = connection.execute(f"SELECT {columns} FROM deployment").fetchone()
    if row is None:
        raise DataLoss(
            "DATA_BROKEN",
            "the fleet's record in the revision store's file cannot be read; restore the file from a backup",
        )
    return row


def leadership(connection: sqlite3.Connection) -> Leadership:
    return Leadership(*deployment(connection, "term, holder, address, renewals"))


def save_leadership(connection: sqlite3.Connection, record: Leadership) -> None:
    connection.execute(
        "UPDATE deployment SET term = ?, holder = ?, address = ?, renewals = ?",
        (record.term, record.holder, record.address, record.renewals),
    )


def head(connection: sqlite3.Connection) -> Head:
    """Two reads, which belong into one transaction."""
    (term,) = deployment(connection, "term")
    newest = connection.execute(
        "SELECT generation, revision_id FROM revisions ORDER BY generation DESC LIMIT 1"
    ).fetchone()
    return Head(0, term) if newest is None else Head(newest[0], term, newest[1])


def save_rollout(connection: sqlite3.Connection, revision_id: str, rollout: Rollout) -> None:
    connection.execute(
        "UPDATE revisions SET stage = ?, rollout = ? WHERE revision_id = ?",
        (rollout.stage, rollout.SerializeToString(), revision_id),
    )


def insert_revision(connection: sqlite3.Connection, config: bytes, about: Summary, rollout: Rollout) -> None:
    connection.execute(
        f"INSERT INTO revisions ({SUMMARY}, config, stage) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            about.revision_id,
            about.parent_revision_id,
            about.generation,
            about.term,
            about.content_hash,
            about.created_at,
            about.resource_count,
            rollout.SerializeToString(),
            config,
            rollout.stage,
        ),
    )


def drop_outdated(connection: sqlite3.Connection, outdated: int) -> None:
    """Revisions up to that generation, the newest COMPLETE one aside."""
    connection.execute(
        "DELETE FROM revisions WHERE generation <= ? AND generation IS NOT"
        " (SELECT MAX(generation) FROM revisions WHERE stage = ?)",
        (outdated, _COMPLETE),
    )


def summary(row: Sequence[Any]) -> Summary:
    """From the columns SUMMARY. Raises DecodeError."""
    *columns, rollout = row
    return replace(Summary(*columns), rollout=Rollout.FromString(rollout))


def revision(row: Sequence[Any]) -> tuple[ConfigSpec, Summary]:
    """From the columns SUMMARY and the config. Raises DecodeError."""
    *about, config = row
    return ConfigSpec.FromString(config), summary(about)


def placement(connection: sqlite3.Connection, shard_count: int) -> Placement:
    """Raises IndexError for a shard that there is not. Two reads, which belong into one transaction."""
    (version,) = deployment(connection, "placement_version")
    shards: list[Assignment | None] = [None] * shard_count
    rows = connection.execute("SELECT shard, epoch, worker_id, instance_id, address, revoked FROM placement")
    for shard, epoch, *owner, revoked in rows:
        shards[shard] = Assignment(epoch, Member(*owner), bool(revoked))
    return Placement(version, tuple(shards))


def assignments(placement: Placement) -> Iterable[tuple[Any, ...]]:
    """The rows of the table placement."""
    for number, shard in enumerate(placement.shards):
        if shard is not None:
            owner = shard.owner
            yield number, shard.epoch, owner.worker_id, owner.instance_id, owner.address, shard.revoked


def worker_row(worker: KnownWorker) -> tuple[Any, ...]:
    """The columns WORKER."""
    member, attempt = worker.member, worker.last_attempt
    return (
        member.worker_id,
        member.instance_id,
        member.address,
        attempt.SerializeToString() if attempt is not None else None,
        worker.capacity.SerializeToString(),
        worker.weight,
        worker.draining,
        "\n".join(worker.replaced),
    )


def worker(row: Sequence[Any]) -> KnownWorker:
    """From the columns WORKER. Raises DecodeError."""
    *member, attempt, capacity, weight, draining, replaced = row
    return KnownWorker(
        Member(*member),
        RevisionAttempt.FromString(attempt) if attempt is not None else None,
        Capacity.FromString(capacity),
        weight,
        bool(draining),
        tuple(replaced.splitlines()),
    )
