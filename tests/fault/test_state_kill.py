"""kill -9 of a process that commits: what it was told is settled is there, whole; what it was not told is whole too."""

import asyncio
import random
import signal
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support import state_writer
from support.state_stores import DONE, entry, envelope
from support.state_writer import SESSIONS, delta, fate, state, steps, version

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Position
from troupe.dataplane.state.port import Fenced, Owner
from troupe.dataplane.state.sqlite import SqliteStateStore

KILLS = 8


async def test_a_killed_process_leaves_every_commit_that_returned_and_no_half_of_another(tmp_path: Path) -> None:
    file, settled = tmp_path / "state.db", dict.fromkeys((key.session for key in SESSIONS), 0)

    for epoch in range(1, KILLS + 1):
        # When a process is killed somewhere among its commits
        told = await killed(file, epoch, after=random.randint(0, 600))

        # Then the next one finds what was settled, and goes on from there
        for session, number in told.items():
            settled[session] = max(settled[session], number)
        with closing(sqlite3.connect(file)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            journaled = set(db.execute("SELECT path, message_id FROM journal"))
        async with SqliteStateStore.opened(file) as store:
            with pytest.raises(Fenced):
                await store.claim(Owner(0, epoch, "another"))
            for key in SESSIONS:
                owner = state_writer.owner(epoch)
                settled[key.session] = await check(store, owner, key, settled[key.session], journaled)

    assert all(settled.values())


async def killed(file: Path, epoch: int, after: int) -> dict[str, int]:
    """The last number of each session that the process said it has settled, before it was killed after so many."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        state_writer.__name__,
        str(file),
        str(epoch),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(Path(state_writer.__file__).parents[1])},
    )
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(after + 1)]
    process.kill()
    lines += (await process.stdout.read()).splitlines(keepends=True)
    assert await process.wait() == -signal.SIGKILL
    told: dict[str, int] = {}
    for line in lines:
        if line.endswith(b"\n"):
            session, number = line.decode().split()
            told[session] = int(number)
    return told


async def check(
    store: SqliteStateStore, owner: Owner, key: SessionKey, told: int, journaled: set[tuple[str, str]]
) -> int:
    """Everything of the session is as its last settled number says, and that is no older than what was told."""
    loaded, summary = await store.load(key), await store.summary(key)
    number = loaded.positions.get("gateway", Position()).settled
    reached = version(number)
    assert number >= told
    assert (loaded.version, loaded.state) == (reached, state(key, reached))
    assert loaded.history == [delta(key, turn) for turn in range(1, reached + 1)]
    assert loaded.positions == ({"gateway": Position(number)} if number else {})
    assert (summary.turns, summary.usage) == (reached, f"{reached}".encode()) if summary else reached == 0

    ended = [await store.record(key, f"m{turn}") for turn in range(1, number + 2)]
    assert ended == [*(fate(turn) for turn in range(1, number + 1)), None]
    done = {(key.path, f"m{turn}") for turn in range(1, number + 1) if fate(turn).fate == DONE}
    assert not done & journaled

    waiting = [found.number.sequence for found in loaded.inbox]
    assert waiting == list(range(number + 1, number + 1 + len(waiting)))
    for found in loaded.inbox:
        begun = await store.begin(owner, key, replace(found, attempts=-1))
        assert begun.envelope == envelope(entry(found.number.sequence))
        assert begun.journal in ({}, steps(found.number.sequence))
    return number
