"""A Redis that is killed, stopped, full or cut off: an error within its deadline, nothing half done, and on again."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import proxy, redis_server
from support.redis_server import RedisServer
from support.state_stores import KEY, OWNER, cancel, commit, entry, envelope, pause, record, seen

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import Unavailable
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.redis import link

PATIENCE = 0.5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server.running(tmp_path) as started:
        yield started


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PATIENCE", PATIENCE)


@dataclass
class LimitedFiles:
    """As a full disk, without the rights to make one."""

    server: RedisServer

    def end(self) -> None:
        self.server.kill()
        self.server.file_limit = 500_000
        self.server.start()

    def make(self) -> None:
        self.server.file_limit = None


@dataclass
class SmallDisk:
    server: RedisServer
    ballast: Path

    def end(self) -> None:
        self.ballast.write_bytes(bytes(7_000_000))

    def make(self) -> None:
        self.ballast.unlink()


Room = LimitedFiles | SmallDisk
"""Of a server's disk: it comes to its `end`, and is made again."""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[StateStore]:
    async with connected(url) as store:
        await store.declare(1)
        yield store


async def turns(store: StateStore, key: SessionKey, count: int, *, since: int = 0) -> int:
    """So many turns of a session, one after another; how many were answered."""
    for version in range(since, since + count):
        try:
            await store.commit(OWNER, commit(entry(version + 1), record(), version, key=key))
        except Unavailable:
            return version
    return since + count


async def until_it_answers(store: StateStore) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await store.claim(OWNER)
            except Unavailable:
                await asyncio.sleep(0.01)
            else:
                return


async def refusal(store: StateStore) -> str:
    """Why the store cannot be used; empty while it can."""
    try:
        await store.claim(OWNER)
    except Unavailable as error:
        return str(error)
    return ""


async def failed_within(seconds: float, store: StateStore) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match="may have been carried out or not: ask again"):
        await store.put(OWNER, KEY, entry(99), envelope(entry(99)))
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("how", ["cut", "half_close"])
async def test_a_broken_connection_leaves_whole_turns_and_is_made_anew(server: RedisServer, how: str) -> None:
    sessions = [replace(KEY, session=f"s{number}") for number in range(64)]
    async with proxy.before(server.url()) as between, opened(between.url(server.url())) as store:
        # When the connection breaks in the middle of many turns
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(turns(store, key, 200)) for key in sessions]
            while not (await store.load(sessions[0])).version > 3:
                await asyncio.sleep(0)
            getattr(between, how)()

        # Then each turn that was answered is there, and at most one more of each session
        for key, task in zip(sessions, running, strict=True):
            answered, version = task.result(), (await store.load(key)).version
            assert answered <= version <= answered + 1
            # and all go on from there, on a new connection
            assert await turns(store, key, 1, since=version) == version + 1
        assert between.accepted == 2
        assert any(task.result() < 200 for task in running)


async def test_a_call_made_while_the_connection_is_away_waits_for_the_next(server: RedisServer) -> None:
    async with proxy.before(server.url()) as between, opened(between.url(server.url())) as store:
        between.refuse()
        with pytest.raises(Unavailable):
            while True:
                await store.claim(OWNER)
        waiting = asyncio.create_task(store.put(OWNER, KEY, entry(1), b""))
        await asyncio.sleep(0)
        between.heal()

        await waiting


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_a_stalled_connection_fails_its_calls_in_time(server: RedisServer, direction: str) -> None:
    async with proxy.before(server.url()) as between, opened(between.url(server.url())) as store:
        between.stall(**{"to_server": False, "to_client": False, direction: True})

        await failed_within(4 * PATIENCE, store)

        between.heal()
        await until_it_answers(store)
        placed = (await store.load(KEY)).inbox
        assert len(placed) <= 1
        # A repetition changes nothing more
        await store.put(OWNER, KEY, entry(99), envelope(entry(99)))
        assert [waiting.number for waiting in (await store.load(KEY)).inbox] == [entry(99).number]


@pytest.mark.usefixtures("impatient")
async def test_a_stopped_server_fails_calls_in_time_and_goes_on_when_it_does(server: RedisServer) -> None:
    async with opened(server.url()) as store:
        server.pause()
        await failed_within(4 * PATIENCE, store)
        await failed_within(4 * PATIENCE, store)
        server.resume()

        await until_it_answers(store)
        assert await turns(store, KEY, 3) == 3


@pytest.mark.usefixtures("impatient")
async def test_what_a_stopped_server_carries_out_late_is_refused_when_another_owner_came(server: RedisServer) -> None:
    async with opened(server.url()) as store:
        await store.claim(OWNER)
        # Given a commit on its way to a server that stands still
        server.pause()
        with pytest.raises(Unavailable):
            await store.commit(OWNER, commit(entry(1), record()))
        # When it goes on, and a new owner has come meanwhile
        server.resume()
        async with opened(server.url()) as other:
            await other.claim(replace(OWNER, epoch=6, instance="worker-2.1"))
            before = await seen(other, owner=replace(OWNER, epoch=6, instance="worker-2.1"))

            # Then the old one is refused, whatever of it was carried out before
            await until_unfenced(store)
            assert await seen(other, owner=replace(OWNER, epoch=6, instance="worker-2.1")) == before
            assert before.loaded.version in (0, 1)


async def until_unfenced(store: StateStore) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await store.commit(OWNER, commit(entry(2), record(), 1))
            except Unavailable:
                await asyncio.sleep(0.01)
            except Fenced:
                return


async def test_a_restarted_server_has_everything_and_knows_the_scripts_again(server: RedisServer) -> None:
    async with opened(server.url()) as store:
        assert await turns(store, KEY, 5) == 5
        await store.put(OWNER, KEY, entry(6), envelope(entry(6)))
        before = await seen(store)

        server.kill()
        server.start()

        await until_it_answers(store)
        assert await seen(store) == before
        assert await turns(store, replace(KEY, session="new"), 2) == 2


async def test_a_server_that_lost_the_scripts_is_told_them_again(server: RedisServer) -> None:
    async with opened(server.url()) as store:
        server.ask("SCRIPT", "FLUSH")

        sessions = [replace(KEY, session=f"s{number}") for number in range(64)]
        assert await asyncio.gather(*(turns(store, key, 2) for key in sessions)) == [2] * 64


async def test_full_memory_refuses_and_keeps_everything(server: RedisServer) -> None:
    # One that was scheduled and is due, since it was cancelled
    later = replace(entry(1, "later", stream="later"), due=time.time() + 3600)
    async with opened(server.url()) as store:
        await turns(store, KEY, 2)
        await store.put(OWNER, KEY, entry(3), envelope(entry(3)))
        await store.put(OWNER, KEY, later, b"")
        await store.control(KEY, cancel(later.message_id))
        before = await seen(store)
        server.ask("CONFIG", "SET", "maxmemory", "1mb")

        for script in (
            store.commit(OWNER, commit(entry(3), record(), 2)),
            store.put(OWNER, KEY, entry(4), b""),
            store.begin(OWNER, KEY, entry(3)),
            store.retry(OWNER, KEY, replace(entry(3), attempts=1), b""),
            store.control(KEY, pause("m3")),
            store.due(OWNER),
        ):
            with pytest.raises(Unavailable, match="used memory > 'maxmemory'"):
                await script
        assert await seen(store) == before

        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await turns(store, KEY, 2, since=2) == 4


@pytest.fixture(params=["disk", "limit"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    """A disk of 8 MB takes root to make; a limit on files stands for it elsewhere."""
    if request.param == "limit":
        with redis_server.running(tmp_path) as server:
            yield LimitedFiles(server)
        return
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here; the limit on files stands for it")
    try:
        with redis_server.running(disk) as server:
            yield SmallDisk(server, disk / "ballast")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.usefixtures("impatient")
async def test_a_full_disk_stops_redis_and_loses_nothing_and_all_goes_on_with_room(room: Room) -> None:
    server = room.server
    async with opened(server.url()) as store:
        await turns(store, KEY, 2)
        room.end()
        await until_it_answers(store)

        # When it writes until its disk is full
        done = await large_turns(store, since=2)

        # Then it stops, and what is said about it names the disk
        server.wait()
        assert "Short write" in server.log() or "Error writing" in server.log()
        async with asyncio.timeout(20):
            while "its log says why it stopped: its disk may be full" not in await refusal(store):
                pass
        # Also when it is started again, which it may be without room
        server.start()
        done = await large_turns(store, since=await reached(store, done))
        server.wait()

        room.make()
        server.start()
        await until_it_answers(store)
        assert await turns(store, KEY, 2, since=await reached(store, done)) > done


async def large_turns(store: StateStore, *, since: int) -> int:
    """Turns of more than fits, until one is not answered; how many were."""
    for version in range(since, since + 1000):
        large = replace(commit(entry(version + 1), record(), version), state=large_state(version + 1))
        try:
            await store.commit(OWNER, large)
        except Unavailable:
            return version
    raise AssertionError("the disk was never full")


async def reached(store: StateStore, answered: int) -> int:
    """The session's version: what was answered, and perhaps the turn after it, whole."""
    await until_it_answers(store)
    loaded = await store.load(KEY)
    assert loaded.version in (answered, answered + 1)
    assert loaded.state in (large_state(loaded.version), f"state ada.{loaded.version}".encode())
    assert [delta.decode() for delta in loaded.history] == [f"delta ada.{n + 1}" for n in range(loaded.version)]
    assert await store.record(KEY, f"m{loaded.version}") == record()
    assert await store.record(KEY, f"m{loaded.version + 1}") is None
    return loaded.version


def large_state(version: int) -> bytes:
    return f"{version} ".encode() * 20_000


async def test_a_master_that_became_a_replica_is_left_for_whoever_is_the_master(server: RedisServer) -> None:
    async with proxy.before(server.url()) as between, opened(between.url(server.url())) as store:
        await turns(store, KEY, 1)
        server.ask("REPLICAOF", "127.0.0.1", "1")

        with pytest.raises(Unavailable):
            await store.commit(OWNER, commit(entry(2), record(), 1))

        server.ask("REPLICAOF", "NO", "ONE")
        await until_it_answers(store)
        assert await turns(store, KEY, 1, since=1) == 2
        # by a new connection, since another server may answer at the address now
        assert between.accepted > 1


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_no_longer_keeps_what_it_confirms_is_not_connected_to_again(server: RedisServer) -> None:
    async with proxy.before(server.url()) as between, opened(between.url(server.url())) as store:
        server.ask("CONFIG", "SET", "appendfsync", "everysec")
        between.cut()
        with pytest.raises(Unavailable):
            await store.claim(OWNER)

        with pytest.raises(Unavailable, match="set appendfsync to always"):
            await store.claim(OWNER)

        server.ask("CONFIG", "SET", "appendfsync", "always")
        await until_it_answers(store)


@pytest.mark.usefixtures("impatient")
async def test_a_server_busy_with_a_foreign_script_says_so(tmp_path: Path) -> None:
    with redis_server.running(tmp_path, lua_time_limit="50") as server:
        async with opened(server.url()) as store:
            _, foreign = await asyncio.open_connection("127.0.0.1", server.port)
            foreign.write(b'EVAL "while true do end" 0\r\n')
            async with asyncio.timeout(20):
                while "BUSY" not in await refusal(store):
                    pass
            server.ask("SCRIPT", "KILL")
            foreign.close()
            await until_it_answers(store)


async def test_more_calls_than_fly_at_once_are_all_answered(server: RedisServer) -> None:
    async with opened(server.url()) as store:
        calls = 5 * link.IN_FLIGHT
        async with asyncio.TaskGroup() as tasks:
            for number in range(calls):
                tasks.create_task(store.put(OWNER, KEY, entry(number + 1), b"x"))

        backlog = await store.backlog(0)
        assert (backlog.messages, backlog.bytes) == (calls, calls)


async def test_a_caller_that_goes_away_disturbs_nobody(server: RedisServer) -> None:
    async with opened(server.url()) as store:
        server.pause()
        gone = [asyncio.create_task(store.put(OWNER, KEY, entry(number), b"")) for number in range(1, 9)]
        await asyncio.sleep(0)
        for call in gone[:4]:
            call.cancel()
        await asyncio.sleep(0)
        for call in gone[4:]:
            call.cancel()
        others = [asyncio.create_task(store.put(OWNER, KEY, entry(number), b"")) for number in range(9, 17)]
        await asyncio.sleep(0)
        server.resume()
        async with asyncio.timeout(10):
            await asyncio.gather(*others)

        assert {waiting.number for waiting in (await store.load(KEY)).inbox} >= {entry(n).number for n in range(9, 17)}


async def test_calls_after_the_end_are_refused(server: RedisServer) -> None:
    async with opened(server.url()) as store:
        pass
    with pytest.raises(Unavailable, match="the store is closed"):
        await store.claim(OWNER)
