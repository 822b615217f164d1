"""A state file of before redriven copies were kept track of is taken over as it is."""

import contextlib
import sqlite3
from pathlib import Path

from support.state_stores import DEAD, KEY, OWNER, attempt, commit, entry, opening, record

from troupe.chassis import sqlite_file
from troupe.dataplane.state.sqlite_tables import SCHEMA


def _as_it_was(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE record DROP COLUMN awaited_stream")
        connection.execute("ALTER TABLE record DROP COLUMN awaited_sequence")
        connection.execute("PRAGMA user_version = 2")
        connection.commit()


async def test_its_dead_letters_can_be_redriven(tmp_path: Path) -> None:
    async with opening("sqlite", tmp_path) as store:
        await store.journal(OWNER, KEY, attempt(entry(1)), {"model": b"answer"}, starts=True)
        await store.commit(OWNER, commit(entry(1), record(DEAD)))
    _as_it_was(tmp_path / "state.db")

    async with opening("sqlite", tmp_path) as store:
        assert await store.record(KEY, "m1") == record(DEAD)
        await store.redrive(KEY, "m1", entry(1, stream="again").number)
        kept = await store.record(KEY, "m1")

    assert kept is not None
    assert kept.redriven


def test_it_has_the_tables_of_a_new_file(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    sqlite_file.prepare(old, SCHEMA)
    _as_it_was(old)

    sqlite_file.prepare(old, SCHEMA)

    sqlite_file.prepare(new, SCHEMA)
    assert _columns(old) == _columns(new)


def _columns(file: Path) -> list[tuple[object, ...]]:
    """Of records."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return [row[1:] for row in connection.execute("PRAGMA table_info(record)")]
