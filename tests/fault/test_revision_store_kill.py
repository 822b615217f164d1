"""kill -9 and SIGSTOP of a leader beside its standby, and kill -9 of a Redis that it writes to: what was confirmed is
there, another leads in time, and nothing is written in a term that is over."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import redis_server, revision_writer
from support.redis_server import RedisServer
from support.revision_stores import SHARDS
from support.revision_writer import TIMES

from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import KEPT_REVISIONS

KILLS = 5
PATIENCE = 20.0
SLACK = 3.0
"""Seconds that a busy machine may add to what a takeover takes."""


@dataclass
class Writer:
    """A process that leads, or would."""

    name: str
    process: asyncio.subprocess.Process
    lines: list[list[str]] = field(default_factory=list)
    said: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stored(self) -> dict[int, str]:
        """The revisions that it was told are stored, by generation."""
        return {int(words[2]): words[3] for words in self.lines if words[0] == "stored"}

    @property
    def leads(self) -> bool:
        return any(words[0] == "leads" for words in self.lines)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().split())
            self.said.set()

    async def says(self, word: str, times: int = 1) -> None:
        """Return once it has said that so many times."""
        async with asyncio.timeout(PATIENCE):
            while sum(words[0] == word for words in self.lines) < times:
                self.said.clear()
                await self.said.wait()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


class Writers:
    """Processes on one store; none outlives the test."""

    def __init__(self, url: str, tasks: asyncio.TaskGroup) -> None:
        self.url, self._tasks = url, tasks
        self.all: list[Writer] = []

    async def start(self) -> Writer:
        name = f"writer-{len(self.all)}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            revision_writer.__name__,
            self.url,
            name,
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(Path(revision_writer.__file__).parents[1])},
        )
        writer = Writer(name, process)
        self.all.append(writer)
        self._tasks.create_task(writer.listen())
        return writer

    async def kill(self, writer: Writer) -> None:
        """kill -9; returns when all that it said is heard."""
        writer.signal(signal.SIGKILL)
        await writer.process.wait()


@contextlib.asynccontextmanager
async def writers(url: str) -> AsyncIterator[Writers]:
    async with asyncio.TaskGroup() as tasks:
        running = Writers(url, tasks)
        try:
            yield running
        finally:
            for writer in running.all:
                with contextlib.suppress(ProcessLookupError):
                    writer.process.kill()
                await writer.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server.running(tmp_path) as running:
        yield running


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
async def test_a_standby_takes_over_from_a_leader_that_is_killed_and_nothing_confirmed_is_lost(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/controlplane.db" if backend == "sqlite" else request.getfixturevalue("server").url()
    async with writers(url) as running:
        leader = await running.start()
        await leader.says("stored")
        for _ in range(KILLS):
            # Given a leader in the middle of its commits, and a standby that has seen it
            standby = await running.start()
            await standby.says("sees")
            await leader.says("stored", len(leader.stored) + random.randint(1, 20))
            assert not standby.stored
            # When the leader is killed, then the standby leads within the lease and two retries
            await running.kill(leader)
            killed = time.monotonic()
            await standby.says("leads")
            assert time.monotonic() - killed < TIMES.lease + 2 * TIMES.retry + SLACK
            await standby.says("stored", 3)
            leader = standby
        await running.kill(leader)
    await check(url, running.all)
    if backend == "sqlite":
        with contextlib.closing(sqlite3.connect(tmp_path / "controlplane.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_leader_that_starts_again_alone_on_its_file_leads_at_once(tmp_path: Path) -> None:
    async with writers(f"sqlite:///{tmp_path}/controlplane.db") as running:
        for _ in range(3):
            leader = await running.start()
            await leader.says("stored")
            await running.kill(leader)
    terms = [int(words[1]) for writer in running.all for words in writer.lines if words[0] == "leads"]
    assert terms == [1, 2, 3]


async def test_a_leader_that_is_stopped_past_its_lease_writes_nothing_when_it_goes_on(server: RedisServer) -> None:
    async with writers(server.url()) as running:
        first, second = await running.start(), await running.start()
        await asyncio.wait(
            [asyncio.create_task(first.says("leads")), asyncio.create_task(second.says("leads"))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        leader, standby = (first, second) if first.leads else (second, first)
        await standby.says("sees")
        await leader.says("stored", 5)
        # When the leader stands still, then the standby leads
        leader.signal(signal.SIGSTOP)
        await standby.says("stored", 5)
        # And when the leader goes on, then it notices, and stands by
        leader.signal(signal.SIGCONT)
        await leader.says("over")
        before = len(leader.stored)
        await standby.says("stored", len(standby.stored) + 20)
        assert len(leader.stored) == before
        for writer in running.all:
            await running.kill(writer)
    await check(server.url(), running.all)


async def test_a_killed_redis_keeps_every_revision_that_it_confirmed(server: RedisServer) -> None:
    async with writers(server.url()) as running:
        leader = await running.start()
        for round_ in range(1, KILLS + 1):
            await leader.says("stored", len(leader.stored) + random.randint(5, 15))
            server.kill()
            if round_ % 2:
                # Longer than the renew deadline: the leader gives up, and leads again afterwards
                await leader.says("over", round_ // 2 + 1)
            server.start()
            await leader.says("stored", len(leader.stored) + 1)
        await running.kill(leader)
    await check(server.url(), running.all)


async def check(url: str, all_: list[Writer]) -> None:
    """One line of revisions, whose terms never go back, with every one that was confirmed and is still kept."""
    async with connected(url, SHARDS) as store:
        revisions = await store.revisions(1_000)
    revisions.reverse()
    newest = revisions[-1].generation
    assert [each.generation for each in revisions] == list(range(max(1, newest - KEPT_REVISIONS + 1), newest + 1))
    for before, after in itertools.pairwise(revisions):
        assert after.parent_revision_id == before.revision_id
    terms = [each.term for each in revisions]
    assert terms == sorted(terms)
    confirmed = {generation: id_ for writer in all_ for generation, id_ in writer.stored.items()}
    kept = {each.generation: each.revision_id for each in revisions}
    assert {generation: id_ for generation, id_ in confirmed.items() if generation in kept}.items() <= kept.items()
    assert max(confirmed) <= newest
