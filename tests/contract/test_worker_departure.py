"""How a worker leaves its fleet, over gRPC, with the test in the part of its control plane."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import scripted_actor
from support.hosting import until
from support.serving_worker import SHARDS, ServingWorker, config, serving_worker

from troupe.chassis import rpc
from troupe.chassis.errors import FailedPrecondition
from troupe.chassis.lifecycle import Stop
from troupe.chassis.rpc_client import channel
from troupe.chassis.service import ServiceSettings
from troupe.chassis.wire import duration
from troupe.dataplane import departure
from troupe.dataplane.process import serve
from troupe.dataplane.settings import DataPlaneSettings
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetMessageRequest, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.control_plane_pb2 import RegisterRequest, RegisterResponse
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceServicer, add_ControlPlaneServiceServicer_to_server
from troupe.v1.data_plane_pb2 import PlaceRequest, ReportRequest, ShardAssignment
from troupe.v1.data_plane_pb2_grpc import DataPlaneServiceStub
from troupe.v1.dead_letter_pb2_grpc import DeadLetterServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.promise_pb2_grpc import PromiseServiceStub
from troupe.v1.status_pb2 import HealthState, ShardState, StatusReport


@pytest.fixture(autouse=True)
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What turns of the message `wait` wait for."""
    found = asyncio.Event()
    monkeypatch.setattr(scripted_actor, "OPEN", found)
    return found


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Leaving:
    """A worker in a task of its own that ends as the process would."""

    stop: Stop
    task: "asyncio.Task[None]"
    worker: ServingWorker
    connection: grpc.aio.Channel
    plane: "_Plane"
    _version: int = 0

    async def place(self, *, revoked: bool = False, mine: bool = True, draining: bool = False) -> None:
        """All shards to this worker, or to another one."""
        self._version += 1
        me = self.plane.joined[-1]
        shards = [
            ShardAssignment(
                shard=shard,
                epoch=1 if mine else 2,
                worker_id="worker-0" if mine else "other",
                instance_id=me.instance_id if mine else "other",
                address=me.address,
                revoked=revoked,
            )
            for shard in range(SHARDS)
        ]
        request = PlaceRequest(term=3, version=self._version, shard_count=SHARDS, shards=shards)
        request.draining_instance_ids.extend([me.instance_id] if draining else [])
        await self.worker.data_plane.Place(request, timeout=10)

    async def reported(self, holds: Callable[[StatusReport], bool]) -> StatusReport:
        """The first report of which this is true."""
        call = self.worker.data_plane.Report(ReportRequest(), timeout=10)
        async for response in call:
            if holds(response.report):
                call.cancel()
                return response.report
        raise AssertionError("a report stream does not end")

    async def health(self, service: str) -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.connection)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status  # type: ignore[no-any-return]

    async def send(self, session: str, text: str, wait: float = 0.0) -> str:
        request = SendRequest(session=SessionRef(agent="counter", session=session), content=Content(text=text))
        if wait:
            request.wait.CopyFrom(duration(wait))
        response = await self.worker.agents.Send(request)
        return response.status.result.text if wait else response.message_id

    async def ended(self, within: float = 10.0) -> None:
        """Returns once the process would have exited with 0; raises what would be its error."""
        async with asyncio.timeout(within):
            await self.task


@dataclass
class _Plane(ControlPlaneServiceServicer):
    joined: list[RegisterRequest] = field(default_factory=list)
    refuses: FailedPrecondition | None = None

    async def Register(self, request: RegisterRequest, context: Any) -> RegisterResponse:  # noqa: N802
        if self.refuses is not None:
            raise self.refuses
        self.joined.append(request)
        return RegisterResponse(renew_after=duration(0.05))


@asynccontextmanager
async def leaving_worker(directory: Path, **settings: Any) -> AsyncIterator[Leaving]:
    """One that runs the counter on all shards."""
    plane = _Plane()  # type: ignore[abstract]

    def register(server: grpc.aio.Server) -> list[str]:
        add_ControlPlaneServiceServicer_to_server(plane, server)
        return []

    async with rpc.serving(ServiceSettings(metrics_listen=""), register) as serving:
        options = {"drain_timeout": 5.0, "drain_patience": 5.0, "server": [serving.address], **settings}
        given = DataPlaneSettings(
            listen="127.0.0.1:0", metrics_listen="", data=directory, python_path=[], stop_grace=0.2, **options
        )
        stop = Stop()
        task = asyncio.create_task(serve(given, stop))
        await until(lambda: plane.joined or task.done())
        async with channel(plane.joined[-1].address) as connection:
            stubs: list[Any] = [
                stub(connection)
                for stub in (AgentServiceStub, DataPlaneServiceStub, DeadLetterServiceStub, PromiseServiceStub)
            ]
            worker = ServingWorker(stubs[0], stubs[1], stubs[2], stubs[3], plane.joined[-1].address)
            leaving = Leaving(stop, task, worker, connection, plane)
            await worker.apply(config(1))
            await leaving.place()
            try:
                yield leaving
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError, FailedPrecondition):
                    await task


def draining(report: StatusReport) -> bool:
    return report.health.state == HealthState.HEALTH_STATE_DRAINING


async def test_it_stays_until_its_shards_are_with_others(tmp_path: Path) -> None:
    async with leaving_worker(tmp_path) as leaving:
        assert await leaving.send("s", "hello", wait=5) == "1"
        # When it is told to stop
        leaving.stop.set()
        report = await leaving.reported(draining)
        # Then it is not ready, and says so, and is there for its control plane and for what it still holds
        assert report.health.cause == "it was told to stop"
        assert await leaving.health("troupe.v1.AgentService") == NOT_SERVING
        assert await leaving.health("") == NOT_SERVING
        assert await leaving.health("troupe.v1.DataPlaneService") == SERVING
        assert [shard.state for shard in report.shards] == [ShardState.SHARD_STATE_ACTIVE] * SHARDS
        assert await leaving.send("s", "hello", wait=5) == "2"
        before = len(leaving.plane.joined)
        await until(lambda: len(leaving.plane.joined) >= before + 3)
        # When they are revoked
        await leaving.place(revoked=True)
        report = await leaving.reported(lambda report: not report.shards)
        # Then the report says of which placement that is true
        assert (report.placement.term, report.placement.version) == (3, 2)
        assert not leaving.task.done()
        # And when they are given to another one, it ends
        await leaving.place(mine=False)
        await leaving.ended()


async def test_a_turn_that_runs_goes_on_to_its_end(tmp_path: Path, gate: asyncio.Event) -> None:
    async with leaving_worker(tmp_path) as leaving:
        message_id = await leaving.send("s", "wait")
        await leaving.reported(lambda report: report.load.running_turns == 1)
        # When it is to leave in the middle of a turn, and has given its shards away
        leaving.stop.set()
        await leaving.reported(draining)
        await leaving.place(revoked=True)
        report = await leaving.reported(lambda report: not report.shards)
        await leaving.place(mine=False)
        assert report.load.running_turns == 1
        # Then it waits for that turn, in the fleet as before, and its result is kept
        before = len(leaving.plane.joined)
        await until(lambda: len(leaving.plane.joined) >= before + 5)
        assert (await leaving.reported(lambda _: True)).load.running_turns == 1
        gate.set()
        await leaving.ended()
    assert await _results(tmp_path, message_id) == ["1"]


async def test_a_turn_that_does_not_end_is_put_back_when_its_time_is_over(tmp_path: Path, gate: asyncio.Event) -> None:
    async with leaving_worker(tmp_path, drain_timeout=2.0) as leaving:
        message_id = await leaving.send("s", "wait")
        await leaving.reported(lambda report: report.load.running_turns == 1)
        leaving.stop.set()
        await leaving.reported(draining)
        await leaving.place(revoked=True)
        await leaving.reported(lambda report: not report.shards)
        await leaving.place(mine=False)
        await leaving.ended()
    gate.set()
    assert await _results(tmp_path, message_id) == ["1"]


async def test_the_control_plane_drains_it_through_the_placement(tmp_path: Path) -> None:
    async with leaving_worker(tmp_path) as leaving:
        await leaving.place(revoked=True, draining=True)
        report = await leaving.reported(draining)
        assert report.health.cause == "the control plane drains it"
        await leaving.place(mine=False, draining=True)
        await leaving.ended()


async def test_it_lets_go_by_itself_when_nobody_moves_its_shards(tmp_path: Path, gate: asyncio.Event) -> None:
    async with leaving_worker(tmp_path, drain_patience=0.3) as leaving:
        message_id = await leaving.send("s", "wait")
        waiting = await leaving.send("s", "after it")
        leaving.stop.set()
        await leaving.reported(lambda report: draining(report) and not report.shards)
        gate.set()
        await leaving.ended()
    # Then nothing is lost
    assert await _results(tmp_path, message_id, waiting) == ["1", "2"]


async def test_one_that_holds_nothing_leaves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departure, "GOODBYE", 60.0)
    async with leaving_worker(tmp_path, drain_patience=60.0) as leaving:
        await leaving.place(revoked=True)
        await leaving.place(mine=False)
        leaving.stop.set()
        await leaving.ended(within=20.0)


async def test_another_process_in_its_place_ends_it_with_an_error(tmp_path: Path) -> None:
    async with leaving_worker(tmp_path, drain_patience=60.0) as leaving:
        assert await leaving.send("s", "hello", wait=5) == "1"
        leaving.plane.refuses = FailedPrecondition("REPLACED", "another process has registered as worker-0 since")
        with pytest.raises(FailedPrecondition) as replaced:
            await leaving.ended(within=20.0)
        assert replaced.value.reason == "REPLACED"
    async with _next_worker(tmp_path) as worker:
        session = SessionRef(agent="counter", session="s")
        request = SendRequest(session=session, content=Content(text="hello"), wait=duration(10))
        assert (await worker.agents.Send(request)).status.result.text == "2"


async def _results(directory: Path, *message_ids: str) -> list[str]:
    """What came of these messages, by the worker that has the shards next."""
    session = SessionRef(agent="counter", session="s")
    async with _next_worker(directory) as worker:
        found = []
        for message_id in message_ids:
            request = GetMessageRequest(session=session, message_id=message_id, wait=duration(10))
            status = (await worker.agents.GetMessage(request)).status
            assert status.fate == turn_pb2.FATE_DONE
            found.append(status.result.text)
        return found


@asynccontextmanager
async def _next_worker(directory: Path) -> AsyncIterator[ServingWorker]:
    async with serving_worker(directory) as worker:
        await worker.place(version=9, epoch=9)
        yield worker
