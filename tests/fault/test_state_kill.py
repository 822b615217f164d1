"""kill -9 of a process that commits, and of a Redis that it commits to: what the process was told is settled is there,
whole; what it was not told is whole too."""

import asyncio
import random
import signal
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support import redis_server, state_writer
from support.redis_server import RedisServer
from support.state_stores import DONE, entry, envelope
from support.state_writer import KEPT, SESSIONS, delta, fate, sent, state, steps, version

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Position
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Backlog, Owner

KILLS = 8


async def test_a_killed_process_leaves_every_commit_that_returned_and_no_half_of_another(tmp_path: Path) -> None:
    file, settled = tmp_path / "state.db", dict.fromkeys((key.session for key in SESSIONS), 0)

    for epoch in range(1, KILLS + 1):
        # When a process is killed somewhere among its commits
        told = await told_by_killed(f"sqlite:///{file}", epoch, after=random.randint(0, 600))

        # Then the next one finds what was settled, and goes on from there
        for session, number in told.items():
            settled[session] = max(settled[session], number)
        with closing(sqlite3.connect(file)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            journaled = set(db.execute("SELECT path, message_id FROM journal"))
        await check_all(f"sqlite:///{file}", epoch, settled, journaled)

    assert all(settled.values())


async def test_a_killed_redis_keeps_every_commit_that_it_answered_and_no_half_of_another(tmp_path: Path) -> None:
    settled = dict.fromkeys((key.session for key in SESSIONS), 0)

    with redis_server.running(tmp_path) as server:
        for epoch in range(1, KILLS + 1):
            # When the server is killed somewhere among the commits of a process, and starts again
            for session, number in (await told_until_killed(server, epoch, after=random.randint(0, 600))).items():
                settled[session] = max(settled[session], number)
            server.start()

            # Then it has what was settled, and goes on from there
            await check_all(server.url(), epoch, settled, set())

    assert all(settled.values())


async def test_a_process_that_is_killed_leaves_whole_commits_in_redis(tmp_path: Path) -> None:
    settled = dict.fromkeys((key.session for key in SESSIONS), 0)

    with redis_server.running(tmp_path) as server:
        for epoch in range(1, KILLS + 1):
            told = await told_by_killed(server.url(), epoch, after=random.randint(0, 600))
            for session, number in told.items():
                settled[session] = max(settled[session], number)
            await check_all(server.url(), epoch, settled, set())

    assert all(settled.values())


async def told_until_killed(server: RedisServer, epoch: int, after: int) -> dict[str, int]:
    """The last number of each session that was said to be settled, before the server was killed after so many."""
    told: dict[str, int] = {}
    count, dead = 0, asyncio.Event()

    def tell(session: str, number: int) -> None:
        nonlocal count
        told[session], count = number, count + 1
        if count == after + 1:
            server.kill()
            dead.set()

    writing = asyncio.create_task(state_writer.write(server.url(), epoch, tell))
    await asyncio.wait([writing, asyncio.create_task(dead.wait())], return_when=asyncio.FIRST_COMPLETED)
    # What was answered before the server died is still told.
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    return told


async def check_all(url: str, epoch: int, settled: dict[str, int], journaled: set[tuple[str, str]]) -> None:
    """Look at every session, and note how far each has come in `settled`."""
    async with connected(url) as store:
        await store.declare(1)
        with pytest.raises(Fenced):
            await store.claim(Owner(0, epoch, "another"))
        for key in SESSIONS:
            owner = state_writer.owner(epoch)
            settled[key.session] = await check(store, owner, key, settled[key.session], journaled)
        waiting = [await store.session_backlog(key) for key in SESSIONS]
        assert await store.backlog(0) == Backlog(
            sum(each.messages for each in waiting), sum(each.bytes for each in waiting)
        )


async def told_by_killed(url: str, epoch: int, after: int) -> dict[str, int]:
    """The last number of each session that the process said it has settled, before it was killed after so many."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        state_writer.__name__,
        url,
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


async def check(store: StateStore, owner: Owner, key: SessionKey, told: int, journaled: set[tuple[str, str]]) -> int:
    """Everything of the session is as its last settled number says, and that is no older than what was told."""
    loaded, summary = await store.load(key), await store.summary(key)
    number = loaded.positions.get("gateway", Position()).settled
    reached = version(number)
    assert number >= told
    assert (loaded.version, loaded.state) == (reached, state(key, reached))
    assert loaded.history == [delta(key, turn) for turn in range(1, reached + 1)]
    assert loaded.positions == ({"gateway": Position(number)} if number else {})
    assert (summary.turns, summary.usage) == (reached, f"{reached}".encode()) if summary else reached == 0

    # What was sent is all there from some message on, none of the newest being struck
    outgoing = [sent(turn) for turn in range(1, reached + 1)]
    assert loaded.outbox == outgoing[len(outgoing) - len(loaded.outbox) :]
    assert len(loaded.outbox) >= min(reached, KEPT)
    assert [last.number for last in loaded.sent.values()] == [message.number for message in outgoing[-1:]]

    ended = [await store.record(key, f"m{turn}") for turn in range(1, number + 2)]
    assert ended == [*(fate(turn) for turn in range(1, number + 1)), None]
    done = {(key.path, f"m{turn}") for turn in range(1, number + 1) if fate(turn).fate == DONE}
    assert not done & {*journaled, *((key.path, id_) for id_ in loaded.journaled)}

    waiting = [found.number.sequence for found in loaded.inbox]
    assert waiting == list(range(number + 1, number + 1 + len(waiting)))
    for found in loaded.inbox:
        begun = await store.begin(owner, key, replace(found, attempts=-1))
        assert begun.envelope == envelope(entry(found.number.sequence))
        assert begun.journal in ({}, steps(found.number.sequence))
    bodies = [envelope(entry(sequence)) for sequence in waiting]
    assert await store.session_backlog(key) == Backlog(len(bodies), sum(map(len, bodies)))
    return number
