"""What holds of the RevisionStore on Redis alone: which servers are taken, what else may stand in them, and how calls
fail."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import redis_server
from support.redis_server import RedisServer
from support.revision_stores import COMPLETE, FIRST, PENDING, A, following, grown, led

from troupe.chassis.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from troupe.chassis.redis_address import address
from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import KnownWorker, Leadership, RevisionStore
from troupe.controlplane.stores.redis import link
from troupe.v1.status_pb2 import RevisionAttempt


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(own_server: RedisServer) -> Iterator[RedisServer]:
    """Empty, and as it was started."""
    own_server.ask("FLUSHALL")
    yield own_server
    own_server.ask("CONFIG", "SET", "appendfsync", "always")
    own_server.ask("CONFIG", "SET", "maxmemory", "0")


async def test_a_server_that_may_lose_what_it_confirmed_is_refused(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "appendfsync", "everysec")

    with pytest.raises(
        FailedPrecondition,
        match=r"a crash loses revisions that were confirmed: set appendfsync to always.*or name another store",
    ):
        async with connected(server.url(), 4):
            pass


@pytest.mark.parametrize(
    "url", ["redis://h?prefix=", "redis://h?prefix=a{b}", "redis://h:port", "rediss://h?nothing=1"]
)
async def test_a_url_that_says_nonsense_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="the revision store's URL names no Redis"):
        async with connected(url, 4):
            pass


async def test_where_nobody_listens_it_is_said_where(tmp_path: Path) -> None:
    with redis_server.running(tmp_path) as gone:
        url = gone.url(password="secret")
    with pytest.raises(Unavailable, match=r"no Redis answers at 127.0.0.1:\d+ .*start it") as refused:
        async with connected(url, 4):
            pass
    assert "secret" not in str(refused.value)


async def test_fleets_of_different_prefixes_share_a_server(server: RedisServer) -> None:
    async with connected(server.url("one"), 4) as one, connected(server.url("another"), 8) as another:
        await led(one)
        await grown(one, PENDING)
        assert await another.leadership() == Leadership(0)
        assert (another.shard_count, await another.revisions(10)) == (8, [])


# --- servers that fail


async def test_a_server_that_answers_nothing_is_unavailable_and_used_again_when_it_does(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(server.url(), 4) as store:
        held = await led(store)
        monkeypatch.setattr(link, "PATIENCE", 0.2)
        server.pause()
        results = await asyncio.gather(store.renew(held), store.leadership(), store.workers(), return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results)
        server.resume()
        monkeypatch.setattr(link, "PATIENCE", 5.0)
        # The renewal may have been carried out: it was on its way
        assert (await store.leadership()).renewals in (0, 1)


async def test_a_server_that_comes_back_volatile_is_not_used(tmp_path: Path) -> None:
    with redis_server.running(tmp_path) as server:
        async with connected(server.url(), 4) as store:
            held = await led(store)
            server.ask("CONFIG", "SET", "appendfsync", "no")
            server.ask("CLIENT", "KILL", "TYPE", "normal")
            with pytest.raises(Unavailable):
                await store.leadership()
            with pytest.raises(Unavailable, match="set appendfsync to always"):
                await store.renew(held)
            server.ask("CONFIG", "SET", "appendfsync", "always")
            assert await store.renew(held) == Leadership(1, "me", "me:1", 1)


async def test_a_full_server_stores_nothing_and_says_so(server: RedisServer) -> None:
    async with connected(server.url(), 4) as store:
        await led(store)
        await grown(store, PENDING)
        head = await store.head()
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable, match="maxmemory"):
            await store.commit(following(head), 1.0, head, [PENDING, COMPLETE])
        assert await store.head() == head
        assert [each.rollout for each in await store.revisions(10)] == [PENDING]
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await grown(store, PENDING)


async def test_scripts_that_the_server_forgot_are_told_again(server: RedisServer) -> None:
    async with connected(server.url(), 4) as store:
        held = await led(store)
        server.ask("SCRIPT", "FLUSH")
        assert (await store.renew(held)).renewals == 1


async def test_a_cancelled_call_leaves_its_answer_to_nobody_else(server: RedisServer) -> None:
    async with connected(server.url(), 4) as store:
        await led(store)
        (config,) = await grown(store, PENDING)
        server.pause()
        cancelled = asyncio.create_task(store.leadership())
        for _ in range(10):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        server.resume()
        found = await store.revision(config.revision_id)
        assert found is not None
        assert found[0] == config


# --- what else may stand there


KEYS = ["fleet", "generations", "complete", "placement", "workers", "worker:a", "revision:ID"]


@pytest.mark.parametrize("key", KEYS)
async def test_a_key_of_another_program_is_data_loss_and_nothing_is_written(server: RedisServer, key: str) -> None:
    async with connected(server.url(), 4) as store:
        await led(store)
        (config,) = await grown(store, PENDING)
        head = await store.head()
        next_ = following(head)
        name = f"troupe:{{controlplane}}:{key.replace('ID', next_.revision_id)}"
        server.ask("DEL", name)
        server.ask("RPUSH", name, "of", "another")

        with pytest.raises(DataLoss, match="another program writes keys that begin with troupe:"):
            if key == "worker:a":
                await store.remember_worker(KnownWorker(A), 1)
            else:
                await store.commit(next_, 1.0, head, [PENDING, COMPLETE])

        assert server.ask("HGET", f"troupe:{{controlplane}}:revision:{config.revision_id}", "rollout") == server.ask(
            "ECHO", PENDING.SerializeToString().decode()
        )


DAMAGE = {
    "config": ("HSET", "revision:ID", "config", "\xff"),
    "rollout": ("HSET", "revision:ID", "rollout", "\xff"),
    "generation": ("HSET", "revision:ID", "generation", "x"),
    "a revision that is gone": ("HDEL", "revision:ID", "content_hash"),
    "placement": ("SET", "placement", "\xff"),
    "worker": ("HSET", "worker:a", "last_attempt", "\xff"),
    "a worker that is gone": ("DEL", "worker:a"),
    "renewals": ("HSET", "fleet", "renewals", "x"),
    "a fleet that is gone": ("DEL", "fleet"),
    "a part of it": ("HDEL", "fleet", "placement"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_cannot_be_read_any_more_is_data_loss(server: RedisServer, damage: str) -> None:
    async with connected(server.url(), 4) as store:
        await led(store)
        (config,) = await grown(store, COMPLETE)
        await store.save_placement(FIRST, 1)
        await store.remember_worker(KnownWorker(A, RevisionAttempt(generation=1)), 1)
        command, key, *rest = DAMAGE[damage]
        server.ask(command, f"troupe:{{controlplane}}:{key.replace('ID', config.revision_id)}", *rest)

        with pytest.raises(DataLoss, match="cannot be read; restore its data from a backup"):
            await read_all(store, config.revision_id)


async def read_all(store: RevisionStore, revision_id: str) -> None:
    await store.leadership()
    await store.head()
    await store.revision(revision_id)
    await store.revisions(10)
    await store.last_complete(10)
    await store.placement()
    await store.workers()


async def test_a_write_that_arrives_late_changes_nothing(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a call that was given up, of which the network had kept the packets."""
    called: list[tuple[Any, ...]] = []
    call = link.Link.call

    async def noted(self: link.Link, *arguments: Any) -> Any:
        called.append(arguments)
        return await call(self, *arguments)

    monkeypatch.setattr(link.Link, "call", noted)
    async with connected(server.url(), 4) as store:
        await led(store)
        (config,) = await grown(store, PENDING)
        worker = KnownWorker(A)
        await store.save_rollouts([(config.revision_id, PENDING)], 1)
        await store.remember_worker(worker, 1)
        late = called[-2:]
        await store.save_rollouts([(config.revision_id, COMPLETE)], 1)
        await store.forget_worker(A.worker_id, 1)
        async with link.Link.opened(address(server.url(), "revision store"), allow_volatile=False) as another:
            for arguments in late:
                assert await call(another, *arguments) == [b"LATE"]
        assert [each.rollout for each in await store.revisions(10)] == [COMPLETE]
        assert await store.workers() == []
