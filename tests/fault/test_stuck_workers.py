"""Workers that answer and do not work: their shards move, and nothing is lost or happens twice. Real processes, a real
RabbitMQ and Redis."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import redis_server
from support.fleet_processes import FleetProcesses, Process, fleet_processes
from support.lines import spoil
from support.pairs import FOR_GOOD, SHARDS, Long, Pair, pair
from support.recording_actor import STARTS
from support.writers import Writers

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.dataplane.service_agent import SERVICE
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.status_pb2 import HEALTH_STATE_DEGRADED

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
async def fleet(tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FleetProcesses]:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    (tmp_path / "starts").touch()
    async with fleet_processes(tmp_path, amqp_url, redis_server.shared().url(uuid7()), SHARDS) as fleet:
        yield fleet


async def readiness(process: Process) -> set[int]:
    """What its health checks say."""
    async with channel(process.address) as connection:
        stub: Any = health_pb2_grpc.HealthStub(connection)
        requests = [health_pb2.HealthCheckRequest(service=service) for service in ("", SERVICE)]
        return {(await stub.Check(request, timeout=5)).status for request in requests}


async def refusal(process: Process, session: str) -> str:
    """What a message for this session is refused with."""
    request = SendRequest(session=SessionRef(agent="recorder", session=session), content=Content(text="read"))
    async with channel(process.address) as connection:
        stub: Any = AgentServiceStub(connection)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Send(request, timeout=5)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return refused.value.details() or ""


def new_session(two: Pair) -> str:
    """One of the second worker's."""
    return next(name for name in (f"new{number}" for number in range(1000)) if two.owner(name) == "w1")


@pytest.mark.parametrize(
    ("name", "says"),
    [("store", "the state store does not answer"), ("broker", "the broker does not answer")],
)
async def test_a_worker_that_answers_and_runs_nothing_loses_its_shards(
    fleet: FleetProcesses, name: str, says: str
) -> None:
    async with pair(fleet, lease=FOR_GOOD, stuck_after=12) as two:
        line = getattr(two.lines, name)
        async with Writers([two.w0]).writing() as writers:
            long = await Long.begun(two, seconds=1.5)
            assert await readiness(two.w1) == {SERVING}
            # When a worker gets no answer from one of its servers, and answers all who ask it
            spoil(line, "silent")
            # Then it says so, is not ready, and takes nobody new
            workers = await fleet.until(lambda workers: workers["w1"].report.health.state == HEALTH_STATE_DEGRADED)
            assert workers["w1"].report.health.cause.startswith(says)
            async with asyncio.timeout(5):
                while await readiness(two.w1) != {NOT_SERVING}:
                    await asyncio.sleep(0.1)
            assert says in await refusal(two.w1, new_session(two))
            assert await readiness(two.w0) == {SERVING}
            # And the other worker gets all shards, and does all that was left to do
            await two.w0_has_all()
            await writers.more(3)
            await long.done(two.w0)
            # And when it hears its servers again it is ready, and what it writes late changes nothing
            line.heal()
            async with asyncio.timeout(30):
                while await readiness(two.w1) != {SERVING}:
                    await asyncio.sleep(0.1)
            await writers.more(3)
        await long.check(two.w1)
        await writers.check(two.w1)
        assert two.w1.runs
        assert (await fleet.workers())["w1"].report.health.state == HEALTH_STATE_DEGRADED, "it rests"


async def test_a_handler_that_never_yields_is_named_and_its_worker_loses_its_shards(fleet: FleetProcesses) -> None:
    async with pair(fleet) as two:
        async with Writers([two.w0]).writing() as writers:
            # When the code of a message blocks the event loop of its worker
            long = await Long.begun(two, seconds=0.0, blocks=FOR_GOOD)
            # Then its log says at once which code and which message
            async with asyncio.timeout(10):
                while not (said := two.w1.events("event loop is blocked")):
                    await asyncio.sleep(0.1)
            assert (said[0]["agent"], said[0]["session"], said[0]["message"]) == (
                "recorder",
                long.session,
                long.message_id,
            )
            assert "recording_actor.py" in said[0]["where"].split(" < ")[0]
            # And it is not taken for alive: the other worker has its shards, and the message
            await two.w0_has_all()
            await long.done(two.w0)
            await writers.more(3)
        assert two.w1.runs
        assert len(two.w1.events("event loop is blocked")) == 1
        await long.check(two.w0)
        await writers.check(two.w0)
