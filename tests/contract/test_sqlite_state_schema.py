"""A state file of an older version is taken over as it is."""

import contextlib
import sqlite3
from pathlib import Path

from support.state_stores import (
    CANCELLED,
    DEAD,
    KEY,
    NOW,
    OWNER,
    STRANGE,
    cancel,
    entry,
    number,
    opening,
    outgoing,
    record,
)

from troupe.chassis import sqlite_file
from troupe.dataplane.state.port import Placed
from troupe.dataplane.state.session import RETENTION, Sent, Verbs
from troupe.dataplane.state.sqlite_tables import SCHEMA
from troupe.v1.agent_pb2 import VERB_ANSWER_APPLIED, VERB_ANSWER_PENDING

VERSION_2 = """
    CREATE TABLE fleet (fleet INTEGER PRIMARY KEY, shards INTEGER NOT NULL);
    CREATE TABLE fence (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, instance TEXT NOT NULL);
    CREATE TABLE session (
        path TEXT PRIMARY KEY, shard INTEGER NOT NULL, version INTEGER NOT NULL, turns INTEGER NOT NULL,
        created REAL NOT NULL, updated REAL NOT NULL, usage BLOB NOT NULL, state BLOB NOT NULL
    );
    CREATE INDEX session_by_shard ON session (shard, path);
    CREATE INDEX session_by_age ON session (updated);
    CREATE TABLE history (
        path TEXT NOT NULL, version INTEGER NOT NULL, delta BLOB NOT NULL, PRIMARY KEY (path, version)
    );
    CREATE TABLE stream (
        path TEXT NOT NULL, stream TEXT NOT NULL, settled INTEGER NOT NULL, gaps TEXT NOT NULL,
        touched REAL NOT NULL, PRIMARY KEY (path, stream)
    );
    CREATE INDEX stream_by_age ON stream (touched);
    CREATE TABLE inbox (
        path TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL, shard INTEGER NOT NULL,
        place INTEGER NOT NULL, message_id TEXT NOT NULL, digest BLOB NOT NULL, placed REAL NOT NULL,
        skip INTEGER NOT NULL, attempts INTEGER NOT NULL, failures INTEGER NOT NULL, starts INTEGER NOT NULL,
        not_before REAL NOT NULL, first_failed REAL NOT NULL, redriven INTEGER NOT NULL, mark_epoch INTEGER,
        mark_instance TEXT, envelope BLOB NOT NULL, PRIMARY KEY (path, stream, sequence)
    );
    CREATE INDEX inbox_by_place ON inbox (path, place);
    CREATE INDEX inbox_by_message ON inbox (path, message_id);
    CREATE TABLE session_backlog (
        shard INTEGER NOT NULL, path TEXT NOT NULL, messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (shard, path)
    ) WITHOUT ROWID;
    CREATE TABLE backlog (shard INTEGER PRIMARY KEY, messages INTEGER NOT NULL, bytes INTEGER NOT NULL);
    CREATE TABLE record (
        path TEXT NOT NULL, message_id TEXT NOT NULL, fate INTEGER NOT NULL, status BLOB NOT NULL,
        digest BLOB NOT NULL, settled REAL NOT NULL, stays INTEGER NOT NULL, PRIMARY KEY (path, message_id)
    );
    CREATE INDEX record_by_age ON record (settled) WHERE stays = 0;
    CREATE TABLE journal (
        path TEXT NOT NULL, message_id TEXT NOT NULL, digest BLOB NOT NULL, step TEXT NOT NULL,
        content BLOB NOT NULL, PRIMARY KEY (path, message_id, digest, step)
    );
    CREATE TABLE verb (
        path TEXT NOT NULL, message_id TEXT NOT NULL, verb_id TEXT NOT NULL, answer INTEGER NOT NULL,
        status BLOB NOT NULL, recorded REAL NOT NULL, PRIMARY KEY (path, message_id, verb_id)
    );
    CREATE INDEX verb_by_age ON verb (recorded);
    CREATE TABLE outbox (
        place INTEGER PRIMARY KEY, path TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL,
        shard INTEGER NOT NULL, target TEXT NOT NULL, envelope BLOB NOT NULL, UNIQUE (path, stream, sequence)
    );
    CREATE INDEX outbox_by_shard ON outbox (shard, path);
    CREATE TABLE sent (
        path TEXT NOT NULL, target TEXT NOT NULL, stream TEXT NOT NULL, sequence INTEGER NOT NULL,
        at REAL NOT NULL, PRIMARY KEY (path, target)
    );
    CREATE INDEX sent_by_age ON sent (at);
    PRAGMA user_version = 2;
"""
"""The oldest that is still taken over."""


def _old(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file)
    connection.executescript(VERSION_2)
    connection.execute(f"PRAGMA application_id = {SCHEMA.mark}")
    return connection


def _insert(connection: sqlite3.Connection, table: str, *values: object) -> None:
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' for _ in values)})", values)


def _given_session(file: Path) -> None:
    """One turn is done and sent something; m2 runs under a mark and was cancelled; m3 is a skip, since its own cancel
    settled it; m4 is a dead letter; m9 was cancelled before it came."""
    path, mark = KEY.path, (STRANGE.epoch, STRANGE.instance)
    with contextlib.closing(_old(file)) as old:
        _insert(old, "fleet", 0, 1)
        _insert(old, "fence", 0, OWNER.epoch, OWNER.instance)
        _insert(old, "session", path, 0, 1, 1, NOW, NOW, b"used", b"state")
        _insert(old, "history", path, 1, b"delta")
        _insert(old, "stream", path, "gateway", 1, "", NOW)
        for sequence, (id_, skip, *running) in enumerate([("m2", False, *mark), ("m3", True, None, None)], start=2):
            counted = (skip, 1, 0, 1 - skip, 0.0, 0.0, False, *running)
            body = f"{id_} itself".encode()
            _insert(old, "inbox", path, "gateway", sequence, 0, sequence, id_, id_.encode(), NOW, *counted, body)
        _insert(old, "session_backlog", 0, path, 2, 18)
        _insert(old, "backlog", 0, 2, 18)
        _insert(old, "record", path, "m3", CANCELLED, b"FATE_CANCELLED", b"m3", NOW, False)
        _insert(old, "record", path, "m4", DEAD, b"FATE_DEAD", b"m4", NOW, True)
        _insert(old, "journal", path, "m4", b"m4", "model", b"answer")
        _insert(old, "verb", path, "m2", "v2", VERB_ANSWER_APPLIED, b"by v2", NOW)
        _insert(old, "verb", path, "m3", "v3", VERB_ANSWER_APPLIED, b"by v3", NOW)
        _insert(old, "verb", path, "m9", "v9", VERB_ANSWER_PENDING, b"by v9", NOW)
        sent = outgoing(1)
        _insert(old, "outbox", None, path, "to bob", 1, 0, sent.target, sent.envelope)
        _insert(old, "sent", path, sent.target, "to bob", 1, NOW)
        old.commit()


async def test_it_goes_on_as_it_was(tmp_path: Path) -> None:
    _given_session(tmp_path / "state.db")

    async with opening("sqlite", tmp_path) as store:
        loaded = await store.load(KEY)
        assert (loaded.version, loaded.state, loaded.history, loaded.snapshot) == (1, b"state", [b"delta"], b"")
        assert [(waits.message_id, waits.skip, waits.running) for waits in loaded.inbox] == [
            ("m2", False, STRANGE),
            ("m3", True, None),
        ]
        assert loaded.verbs == Verbs({"m2", "m9"})
        assert loaded.outbox == [outgoing(1)]
        assert loaded.sent == {outgoing(1).target: Sent(number(1, "to bob"), NOW)}
        claimed = await store.claim(OWNER)
        assert (claimed.due, claimed.verbs) == ([KEY], [KEY])
        assert await store.control(KEY, cancel("m9", "v9")) == VERB_ANSWER_PENDING
        assert await store.put(OWNER, KEY, entry(1, "m9", stream="late"), b"") is Placed.SKIPPED
        assert await store.record(KEY, "m9") == record(CANCELLED, "m9", b"by v9")


async def test_its_dead_letters_can_be_redriven(tmp_path: Path) -> None:
    _given_session(tmp_path / "state.db")

    async with opening("sqlite", tmp_path) as store:
        assert await store.record(KEY, "m4") == record(DEAD, "m4")
        await store.redrive(KEY, "m4", number(1, "again"))
        kept = await store.record(KEY, "m4")

    assert kept is not None
    assert kept.redriven


async def test_its_sessions_are_kept_as_long_as_they_were_to_be(tmp_path: Path) -> None:
    with contextlib.closing(_old(tmp_path / "state.db")) as old:
        _insert(old, "session", KEY.path, 0, 1, 1, NOW, NOW, b"", b"state")
        old.commit()

    async with opening("sqlite", tmp_path) as store:
        await store.forget(NOW + RETENTION)
        assert await store.summary(KEY) is not None
        await store.forget(NOW + RETENTION + 1)
        assert await store.summary(KEY) is None


def test_it_has_the_tables_and_indexes_of_a_new_file(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    _given_session(old)

    sqlite_file.prepare(old, SCHEMA)
    sqlite_file.prepare(new, SCHEMA)

    assert _shape(old) == _shape(new)


def _shape(file: Path) -> dict[str, object]:
    """The columns of every table, and how every index was made."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        made = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        return {
            name: sql if type_ == "index" else connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
            for type_, name, sql in made
        }
