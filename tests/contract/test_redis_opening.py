"""Which Redis servers sessions are entrusted to, and what is said about the others."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import redis_server
from support.redis_server import RedisServer
from support.shell import command, environment, troupe
from support.state_stores import OWNER

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, TroupeError, Unavailable
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.redis import link


async def opened(url: str, *, allow_volatile: bool = False) -> None:
    async with connected(url, allow_volatile=allow_volatile) as store:
        await store.declare(1)
        await store.claim(OWNER)


async def refusal(url: str, *, allow_volatile: bool = False) -> TroupeError:
    with pytest.raises(TroupeError) as refused:
        await opened(url, allow_volatile=allow_volatile)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(own_server: RedisServer) -> Iterator[RedisServer]:
    """As it was started, before and after each test."""
    yield own_server
    for setting, value in {**redis_server.DURABLE, "no-appendfsync-on-rewrite": "no", "maxmemory": "0"}.items():
        own_server.ask("CONFIG", "SET", setting, value)
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_server_that_keeps_what_it_confirms_is_taken(server: RedisServer) -> None:
    await opened(server.url())


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("appendonly", "no", "a restart loses sessions: set appendonly to yes"),
        ("appendfsync", "everysec", "a crash loses turns that were answered: set appendfsync to always"),
        ("no-appendfsync-on-rewrite", "yes", "set no-appendfsync-on-rewrite to no"),
        ("maxmemory-policy", "allkeys-lru", "drops keys when its memory is full.*set maxmemory-policy to noeviction"),
        ("maxmemory-policy", "volatile-ttl", "set maxmemory-policy to noeviction"),
    ],
)
async def test_a_server_that_may_lose_something_is_taken_only_when_told_so(
    server: RedisServer, setting: str, value: str, sentence: str
) -> None:
    server.ask("CONFIG", "SET", setting, value)

    refused = await refusal(server.url())

    assert isinstance(refused, FailedPrecondition)
    assert refused.reason == "REDIS_VOLATILE"
    refused_for(refused, sentence)
    refused_for(refused, f"it is {value}.*--allow-volatile-state")
    await opened(server.url(), allow_volatile=True)


def test_a_worker_ends_with_that_sentence_unless_it_is_told_to_take_it(server: RedisServer, tmp_path: Path) -> None:
    server.ask("CONFIG", "SET", "appendonly", "no")
    state = ("--state", server.url("services"))

    refused = troupe(tmp_path, "dataplane", *state, "--listen", "127.0.0.1:0")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert refused.stderr.startswith("error: Redis keeps no append-only file, so a restart loses sessions")

    told = (*state, "--listen", "127.0.0.1:0", "--metrics-listen", "", "--allow-volatile-state")
    with subprocess.Popen(
        command("troupe.cli.main", "dataplane", *told),
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stderr is not None
        said = [next(worker.stderr), next(worker.stderr)]
        worker.send_signal(signal.SIGINT)
        worker.communicate(timeout=20)
    assert '"event": "redis.unchecked"' in said[0]
    assert '"event": "serving"' in said[1]
    assert worker.returncode == 0


async def test_where_settings_may_not_be_read_nobody_can_say(server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all", "-config")
    url = server.url().replace("redis://", "redis://worker:secret@")

    refused = await refusal(url)

    assert refused.reason == "REDIS_UNCHECKED"
    refused_for(refused, "does not let its settings be read.*permit CONFIG GET, or run with --allow-volatile-state")
    await opened(url, allow_volatile=True)


async def test_a_replica_is_refused_whatever_is_allowed(server: RedisServer) -> None:
    server.ask("REPLICAOF", "127.0.0.1", "1")
    try:
        refused = await refusal(server.url(), allow_volatile=True)
    finally:
        server.ask("REPLICAOF", "NO", "ONE")

    refused_for(refused, "is a replica of 127.0.0.1:1 and takes no writes: name its master")


async def test_a_node_of_a_cluster_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    with redis_server.running(tmp_path, cluster_enabled="yes") as node:
        refused = await refusal(node.url(), allow_volatile=True)

    refused_for(refused, "node of a cluster.*name a Redis that is none")


@pytest.mark.parametrize("password", ["", "wrong"])
async def test_a_wrong_password_is_said_to_be_one(tmp_path: Path, password: str) -> None:
    with redis_server.running(tmp_path, requirepass="right") as guarded:
        refused = await refusal(guarded.url(password=password))
        await opened(guarded.url(password="right"))

    assert refused.reason == "REDIS_PASSWORD"
    refused_for(refused, "refuses user or password.*correct them in the URL")
    assert "wrong" not in str(refused)


async def test_where_nobody_listens_it_is_said_where() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = await refusal(f"redis://:secret@127.0.0.1:{unused.getsockname()[1]}")

    assert isinstance(refused, Unavailable)
    refused_for(refused, "no Redis answers at 127.0.0.1:[0-9]+ .*start it, or correct the URL")
    assert "secret" not in str(refused)


async def test_what_is_no_redis_is_called_none() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as web:
        refused = await refusal(f"redis://127.0.0.1:{web.sockets[0].getsockname()[1]}")

    assert refused.reason == "NOT_REDIS"
    refused_for(refused, "is no Redis.*correct host and port")


async def test_what_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PATIENCE", 0.1)
    gone = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        refused = await refusal(f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
        await gone.wait()

    assert isinstance(refused, Unavailable)


@pytest.mark.parametrize("url", ["redis://h?prefix=", "redis://h?prefix=a{b}", "redis://h:port", "redis://h?nothing=1"])
async def test_a_url_that_says_nonsense_is_refused(url: str) -> None:
    refused = await refusal(url)

    assert isinstance(refused, InvalidArgument)
    refused_for(refused, r"must be redis://\[\[USER\]:PASSWORD@\]HOST\[:PORT\]")


def refused_for(refusal: TroupeError, pattern: str) -> None:
    with pytest.raises(TroupeError, match=pattern):
        raise refusal
