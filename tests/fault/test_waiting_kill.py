"""kill -9 of a process whose turns wait, in a file or in Redis, and of that Redis: no script is done by half, what was
answered is there, and what can go on is found."""

import asyncio
import random
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support import redis_server, waiting_turns
from support.redis_server import RedisServer
from support.waiting_turns import SESSIONS, check

from troupe.dataplane.state.connect import connected

KILLS = 10
"""Among so many, each kind of round is broken off somewhere."""


async def test_a_killed_process_leaves_whole_scripts_in_redis(tmp_path: Path) -> None:
    with redis_server.running(tmp_path) as server:
        told: dict[str, int] = {}
        for epoch in range(1, KILLS + 1):
            told |= await told_by_killed(server.url(), epoch, after=random.randint(0, 100))
            await check_all(server.url(), epoch, told)
        assert set(told) == {key.session for key in SESSIONS}


async def test_a_killed_process_leaves_whole_scripts_in_its_file(tmp_path: Path) -> None:
    url, told = f"sqlite:///{tmp_path / 'state.db'}", dict[str, int]()
    for epoch in range(1, KILLS + 1):
        told |= await told_by_killed(url, epoch, after=random.randint(0, 40))
        with closing(sqlite3.connect(tmp_path / "state.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        await check_all(url, epoch, told)
    assert set(told) == {key.session for key in SESSIONS}


async def test_a_killed_redis_has_done_each_script_whole_or_not_at_all(tmp_path: Path) -> None:
    with redis_server.running(tmp_path) as server:
        told: dict[str, int] = {}
        for epoch in range(1, KILLS + 1):
            told |= await told_until_killed(server, epoch, after=random.randint(0, 100))
            server.start()
            await check_all(server.url(), epoch, told)
        assert set(told) == {key.session for key in SESSIONS}


async def check_all(url: str, epoch: int, told: dict[str, int]) -> None:
    async with connected(url) as store:
        await store.declare(1)
        for key in SESSIONS:
            told[key.session] = await check(store, epoch, key, told.get(key.session, 0))


async def told_by_killed(url: str, epoch: int, after: int) -> dict[str, int]:
    """The last round of each session that the process said was committed, before it was killed after so many."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", waiting_turns.__name__, url, str(epoch)),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(Path(waiting_turns.__file__).parents[1])},
    )
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(after + 1)]
    process.kill()
    lines += (await process.stdout.read()).splitlines(keepends=True)
    assert await process.wait() == -signal.SIGKILL
    told = (line.decode().split() for line in lines if line.endswith(b"\n"))
    return {session: int(number) for session, number in told}


async def told_until_killed(server: RedisServer, epoch: int, after: int) -> dict[str, int]:
    """The last round of each session that was said to be committed, before the server was killed after so many."""
    told: dict[str, int] = {}
    count, dead = 0, asyncio.Event()

    def tell(session: str, number: int) -> None:
        nonlocal count
        told[session], count = number, count + 1
        if count == after + 1:
            server.kill()
            dead.set()

    driving = asyncio.create_task(waiting_turns.drive(server.url(), epoch, tell))
    await asyncio.wait([driving, asyncio.create_task(dead.wait())], return_when=asyncio.FIRST_COMPLETED)
    driving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driving
    return told
