"""What holds of the SQLite RevisionStore alone: its file, who shares it, and what an older troupe left in it."""

import asyncio
import contextlib
import itertools
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.revision_stores import COMPLETE, FIRST, PENDING, SUPERSEDED, A, following, grown, led, opening

from troupe.chassis import sqlite, sqlite_file
from troupe.chassis.errors import DataLoss, FailedPrecondition
from troupe.chassis.sqlite import Schema
from troupe.controlplane.placement import Assignment, Member, Placement
from troupe.controlplane.revisions import Head
from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import KnownWorker, Leadership
from troupe.controlplane.stores.sqlite_tables import SCHEMA
from troupe.v1.rollout_pb2 import Rollout
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt

FIRST_VERSION = Schema(
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


@asynccontextmanager
async def at(file: Path) -> AsyncIterator[None]:
    async with connected(f"sqlite:///{file}", 4):
        yield


# --- who has the file


async def test_who_finds_the_file_alone_finds_nobody_leading(tmp_path: Path) -> None:
    """Whoever led is gone, and need not be waited for."""
    async with opening("sqlite", tmp_path) as store:
        await led(store, "first")
        async with opening("sqlite", tmp_path) as beside:
            assert (await beside.leadership()).holder == "first", "one that comes later finds who leads"
        assert (await store.leadership()).holder == "first"
    async with opening("sqlite", tmp_path) as store:
        assert await store.leadership() == Leadership(1)


async def test_a_file_that_one_process_has_alone_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "SHARING", 0.1)
    file = tmp_path / "controlplane.db"
    alone = sqlite_file.lock(file)
    with pytest.raises(FailedPrecondition, match=f"in use by process {os.getpid()}"):
        async with at(file):
            pass
    os.close(alone)
    async with at(file):
        with pytest.raises(FailedPrecondition, match="in use by process"):
            sqlite_file.lock(file)


@pytest.mark.parametrize("made", [True, False])
async def test_one_that_comes_while_another_makes_the_file_waits_and_makes_it_where_that_one_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    file = tmp_path / "controlplane.db"
    making = sqlite_file.lock(file)
    opened = asyncio.Event()
    looks, looked = itertools.count(1), asyncio.Event()
    held = sqlite_file.held

    def look(path: Path, lock: int, *, alone: bool) -> bool:
        if next(looks) == 6:  # two each time
            looked.set()
        return held(path, lock, alone=alone)

    monkeypatch.setattr(sqlite_file, "held", look)

    async def come() -> None:
        async with connected(f"sqlite:///{file}", 4) as store:
            assert store.shard_count == (7 if made else 4)
            opened.set()

    coming = asyncio.create_task(come())
    await looked.wait()
    assert not opened.is_set()
    if made:
        sqlite_file.prepare(
            file,
            SCHEMA,
            lambda connection: connection.execute(
                "INSERT INTO deployment (term, shard_count, placement_version) VALUES (0, 7, 0)"
            ),
        )
        assert sqlite_file.held(file, making, alone=False)
        await coming
        os.close(making)
    else:
        os.close(making)
        await coming


async def test_many_that_come_at_once_all_get_it(tmp_path: Path) -> None:
    opened = 0
    all_opened = asyncio.Event()

    async def come() -> None:
        nonlocal opened
        async with at(tmp_path / "controlplane.db"):
            opened += 1
            if opened == 8:
                all_opened.set()
            await all_opened.wait()

    await asyncio.gather(*(come() for _ in range(8)))


# --- files that cannot be used


async def test_a_file_that_is_broken_newer_or_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataLoss, match=r"broken\.db"):
        async with at(tmp_path / "broken.db"):
            pass
    async with at(tmp_path / "newer.db"):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "newer.db")) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA.version + 1}")
    with pytest.raises(FailedPrecondition, match="newer"):
        async with at(tmp_path / "newer.db"):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="cannot write in"):
        async with at(tmp_path / "file/controlplane.db"):
            pass


BROKEN = {
    "UPDATE revisions SET config = x'ff'": "revision",
    "UPDATE revisions SET rollout = x'ff'": "revision",
    "UPDATE placement SET shard = 9 WHERE shard = 0": "placement",
    "UPDATE workers SET last_attempt = x'ff'": "worker",
    "UPDATE workers SET capacity = x'ff'": "worker",
    "UPDATE workers SET capacity = 7": "worker",
    "DELETE FROM deployment": "shards",
}
"""What is done to the file, and what cannot be read afterwards."""


@pytest.mark.parametrize("damage", BROKEN)
async def test_what_cannot_be_read_any_more_is_data_loss(tmp_path: Path, damage: str) -> None:
    async with opening("sqlite", tmp_path) as store, opening("sqlite", tmp_path) as reader:
        await led(store)
        (config,) = await grown(store, COMPLETE)
        await store.save_placement(FIRST, 1)
        await store.remember_worker(KnownWorker(A, RevisionAttempt(generation=1)), 1)
        with contextlib.closing(sqlite3.connect(tmp_path / "controlplane.db")) as connection:
            connection.execute(damage)
            connection.commit()

        with pytest.raises(DataLoss, match="cannot be read; restore the file from a backup"):
            match BROKEN[damage]:
                case "revision":
                    await reader.revision(config.revision_id)
                case "placement":
                    await reader.placement()
                case "worker":
                    await reader.workers()
                case _:
                    await reader.leadership()


# --- what an older troupe left


async def test_a_file_of_the_first_version_has_everything_and_its_newest_revision_is_complete(tmp_path: Path) -> None:
    # Given a file of the first version, with two revisions, a placement and a worker
    file = tmp_path / "controlplane.db"
    sqlite_file.prepare(file, FIRST_VERSION)
    configs = [following(Head(0, 1))]
    configs.append(following(Head(1, 1, configs[0].revision_id)))
    attempt = RevisionAttempt(generation=2, phase=ApplyPhase.APPLY_PHASE_APPLIED)
    with contextlib.closing(sqlite_file.connect(file)) as connection:
        connection.execute("INSERT INTO deployment VALUES (1, 4, 7)")
        for config in configs:
            connection.execute(
                "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, 100.0, ?, ?)",
                (
                    config.generation,
                    config.term,
                    config.revision_id,
                    config.parent_revision_id,
                    config.content_hash,
                    len(config.resources),
                    config.SerializeToString(),
                ),
            )
        connection.execute("INSERT INTO placement VALUES (2, 3, 'a', 'a-1', 'host:1')")
        connection.execute("INSERT INTO workers VALUES ('a', 'a-1', 'host:1', ?)", (attempt.SerializeToString(),))

    # When this troupe opens it, then all of it is there
    async with opening("sqlite", tmp_path) as store:
        assert await store.leadership() == Leadership(1)
        assert await store.head() == Head(2, 1, configs[1].revision_id)
        assert await store.placement() == Placement(7, (None, None, Assignment(3, Member("a", "a-1", "host:1")), None))
        assert list(await store.workers()) == [KnownWorker(A, attempt)]
        # And the newest revision, which went to every worker, is what a bad one goes back to
        newest, oldest = await store.revisions(10)
        assert newest.rollout == Rollout(stage=COMPLETE.stage)
        assert oldest.rollout == Rollout(stage=SUPERSEDED.stage)
        complete = await store.last_complete(3)
        assert complete is not None
        assert complete[0] == configs[1]
        # And it goes on as any
        assert (await led(store)).term == 2
        (config,) = await grown(store, PENDING)
        assert await store.head() == Head(3, 2, config.revision_id)


def test_it_has_the_tables_of_a_new_file(tmp_path: Path) -> None:
    sqlite_file.prepare(tmp_path / "old.db", FIRST_VERSION)
    sqlite_file.prepare(tmp_path / "old.db", SCHEMA)
    sqlite_file.prepare(tmp_path / "new.db", SCHEMA)

    assert _tables(tmp_path / "old.db") == _tables(tmp_path / "new.db")


async def test_a_file_is_not_changed_under_an_older_troupe_that_has_it(tmp_path: Path) -> None:
    file = tmp_path / "controlplane.db"
    sqlite_file.prepare(file, FIRST_VERSION)
    older = sqlite_file.lockable(file)
    assert sqlite_file.held(file, older, alone=False)
    with pytest.raises(FailedPrecondition, match="in use by an older troupe"):
        async with at(file):
            pass
    os.close(older)
    async with at(file):
        pass


def _tables(file: Path) -> dict[str, list[tuple[object, ...]]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        return {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
