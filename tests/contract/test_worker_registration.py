"""How a worker finds the control plane that leads, over gRPC, and what it does about one that has lost its place."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from troupe.chassis import rpc
from troupe.chassis.clock import SystemClock
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.chassis.service import ServiceSettings
from troupe.chassis.wire import duration
from troupe.dataplane import clients
from troupe.dataplane.clients import Registration
from troupe.v1.control_plane_pb2 import RegisterRequest, RegisterResponse
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceServicer, add_ControlPlaneServiceServicer_to_server

REQUEST = RegisterRequest(worker_id="w", instance_id="i", address="127.0.0.1:1")


class Planes:
    """Control planes that answer as the test says: `says` what each raises, None where it leads."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.says: dict[str, TroupeError | None] = {}
        self.terms: dict[str, int] = {}
        self.asked: list[str] = []
        self._heard = asyncio.Condition()

    def led_by(self, leader: str) -> None:
        """This one leads; the others know that."""
        error = Unavailable("NOT_LEADER", "another leads", metadata={"leader_address": leader})
        self.says = {address: None if address == leader else error for address in self.addresses}

    async def answer(self, address: str) -> RegisterResponse:
        async with self._heard:
            self.asked.append(address)
            self._heard.notify_all()
        if (error := self.says.get(address)) is not None:
            raise error
        return RegisterResponse(renew_after=duration(0.02), term=self.terms.get(address, 1))

    async def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """Wait until this is true of who was asked since the last call."""
        async with asyncio.timeout(10), self._heard:
            await self._heard.wait_for(lambda: holds(self.asked))
            asked, self.asked = self.asked, []
            return asked


class _Plane(ControlPlaneServiceServicer):
    def __init__(self, planes: Planes) -> None:
        self._planes, self.address = planes, ""

    async def Register(self, request: RegisterRequest, context: Any) -> RegisterResponse:  # noqa: N802
        return await self._planes.answer(self.address)


@asynccontextmanager
async def three_planes() -> AsyncIterator[Planes]:
    planes = Planes()
    async with AsyncExitStack() as stack:
        for _ in range(3):
            plane = _Plane(planes)  # type: ignore[abstract]

            def register(server: grpc.aio.Server, plane: _Plane = plane) -> list[str]:
                add_ControlPlaneServiceServicer_to_server(plane, server)
                return []

            serving = await stack.enter_async_context(rpc.serving(ServiceSettings(metrics_listen=""), register))
            plane.address = serving.address
            planes.addresses.append(serving.address)
        yield planes


@asynccontextmanager
async def registering(
    named: list[str], term: Callable[[], int] = lambda: 0
) -> AsyncIterator[asyncio.Task[TroupeError]]:
    task = asyncio.create_task(Registration(named, REQUEST, SystemClock(), term=term).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "RETRY", 0.05)


async def test_it_goes_to_the_leader_and_stays_there() -> None:
    async with three_planes() as planes:
        a, _, c = planes.addresses
        planes.led_by(c)
        async with registering(planes.addresses):
            assert (await planes.until(lambda asked: len(asked) >= 5))[:5] == [a, c, c, c, c]


async def test_it_follows_the_leader_from_one_that_was_not_named() -> None:
    async with three_planes() as planes:
        a, b, _ = planes.addresses
        planes.led_by(b)
        async with registering([a]):
            await planes.until(lambda asked: asked.count(b) >= 2)
            # When another one leads
            planes.led_by(a)
            # Then it is found again
            await planes.until(lambda asked: asked.count(a) >= 2)


async def test_one_that_is_down_is_passed_over() -> None:
    async with three_planes() as planes:
        a, b, c = planes.addresses
        planes.led_by(b)
        async with registering(["127.0.0.1:1", a, b, c]):
            assert (await planes.until(lambda asked: len(asked) >= 3))[:3] == [a, b, b]


async def test_while_nobody_leads_all_are_asked_again_and_again() -> None:
    async with three_planes() as planes:
        a, b, c = planes.addresses
        planes.says = dict.fromkeys(planes.addresses, Unavailable("NOT_LEADER", "nobody leads yet", retry_after=0.01))
        async with registering(planes.addresses):
            assert (await planes.until(lambda asked: len(asked) >= 6))[:6] == [a, b, c, a, b, c]


async def test_a_leader_of_an_older_term_is_passed_over() -> None:
    async with three_planes() as planes:
        a, b, _ = planes.addresses
        planes.terms = {a: 3, b: 4}
        known = 0
        async with registering([a, b], term=lambda: known):
            await planes.until(lambda asked: asked.count(a) >= 2)
            # When a placement came from a leader of a newer term, and the old one does not know of it
            known = 4
            # Then the worker registers with the new one
            await planes.until(lambda asked: asked.count(b) >= 3)
            assert (await planes.until(lambda asked: len(asked) >= 3)) == [b, b, b]


async def test_only_another_process_in_its_place_ends_it() -> None:
    async with three_planes() as planes:
        a = planes.addresses[0]
        planes.says[a] = FailedPrecondition("OTHER", "not now")
        async with registering([a]) as task:
            await planes.until(lambda asked: len(asked) >= 3)
            planes.says[a] = FailedPrecondition("REPLACED", "another process has registered as w since")
            async with asyncio.timeout(10):
                assert (await task).reason == "REPLACED"
