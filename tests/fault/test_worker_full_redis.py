"""A worker whose Redis stops for want of room: clients are told, the log says it once, and all goes on when Redis is
back. Real processes."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import redis_server
from support.fleet_processes import FleetProcesses, Process, fleet_processes
from support.pairs import RECORDER, SHARDS
from support.recording_actor import STARTS
from support.redis_server import RedisServer
from support.writers import Writers

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.v1.agent_pb2 import GetSessionRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import SessionRef

ROOM = 1_000_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """With room for so many bytes: a limit on its files is to it as a full disk."""
    (tmp_path / "redis").mkdir()
    with redis_server.running(tmp_path / "redis") as server:
        server.stop()
        server.file_limit = ROOM
        server.start()
        yield server


@pytest.fixture
async def fleet(
    tmp_path: Path, amqp_url: str, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FleetProcesses]:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    async with fleet_processes(tmp_path, amqp_url, server.url(uuid7()), SHARDS) as fleet:
        yield fleet


async def refusal(worker: Process) -> grpc.aio.AioRpcError:
    """Of somebody who asks for what only the state store has."""
    async with channel(worker.address) as connection:
        stub: Any = AgentServiceStub(connection)
        request = GetSessionRequest(session=SessionRef(agent="recorder", session="c0"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetSession(request, timeout=20)
    return refused.value


async def test_a_redis_that_stops_for_want_of_room_is_told_and_all_goes_on_when_it_is_back(
    fleet: FleetProcesses, server: RedisServer
) -> None:
    await fleet.control_plane()
    worker = await fleet.worker("w0")
    await fleet.apply([RECORDER])
    await fleet.settled("w0")
    async with Writers([worker], 4).writing() as writers:
        await writers.more(3)

        # When what others write takes the room that Redis has left
        with pytest.raises(subprocess.CalledProcessError):
            while True:
                server.ask("SET", "ballast", "x" * 50_000)
        server.wait()

        # Then who asks for a session is told where to look, and what is sent is taken, to be done later
        refused = await refusal(worker)
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert "its log says why it stopped: its disk may be full" in (refused.details() or "")
        await writers.more(2)

        # And once it is back, with room, the worker goes on
        server.file_limit = None
        server.start()
        await writers.more(2)
    assert worker.runs
    await writers.check(worker)
    assert len(worker.events("redis.disconnected")) == 1
    tries = worker.events("cannot persist, trying again")
    assert len(tries) == len({line["what"] for line in tries})
