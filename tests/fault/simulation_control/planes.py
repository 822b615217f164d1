"""The control planes of the simulation: the real classes, put together as a process does."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from fault.simulation_control.checks import LEASE, RELEASE
from fault.simulation_control.network import KEPT_ALIVE, Machine, Network, StoreSeen, Weather
from fault.simulation_control.worker import Process

from troupe.chassis.errors import Unavailable
from troupe.controlplane.clients import Refused, WorkerClient
from troupe.controlplane.leadership import Leader
from troupe.controlplane.link import LinkTimes
from troupe.controlplane.packed import Packed
from troupe.controlplane.reign import ReignTimes, Surroundings
from troupe.controlplane.seat import Seat
from troupe.controlplane.service import ControlPlane
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.port import RevisionStore
from troupe.v1.data_plane_pb2 import ApplyRequest, PlaceRequest
from troupe.v1.status_pb2 import RevisionAttempt, StatusReport

Listening = Callable[[str], Process | None]
"""The process at an address."""

APPLY = 20.0


class Plane:
    """One process of a control plane."""

    def __init__(
        self,
        name: str,
        machine: Machine,
        store: StoreSeen,
        network: Network,
        dice: random.Random,
        listening: Listening,
    ) -> None:
        self.name, self.machine, self.address = name, machine, f"{name}:1"
        self._network, self._listening, self._dice = network, listening, dice
        status, reached = FleetStatus(machine, 10), cast(RevisionStore, store)
        self.seat = Seat(
            Surroundings(
                store=reached,
                status=status,
                dial=self._dial,
                clock=machine,
                random=dice.random,
                workers=1,
                max_workers=100,
                times=ReignTimes(lease=LEASE, release=RELEASE, forget=60.0, link=LinkTimes(apply=APPLY)),
            )
        )
        self.service = ControlPlane(ControlPlaneSettings(), reached, status, self.seat)
        self.leader = Leader(reached, machine, name, self.address)
        self.task = asyncio.create_task(self.seat.run(self.leader))

    @property
    def serves(self) -> bool:
        return not self.machine.dead

    @property
    def leads(self) -> bool:
        return self.serves and self.leader.standing.leads

    async def asked(self, source: str, method: str, request: Any, timeout: float) -> Any:
        """Call one of its methods from somewhere."""
        return await self._network.call(
            source, self.name, lambda: self._does(method, request), timeout, lambda: self.serves
        )

    async def _does(self, method: str, request: Any) -> Any:
        await self.machine.running()
        if not self.serves:
            raise Unavailable("GONE", f"{self.name} is gone")
        return await getattr(self.service, method)(request, None)

    @asynccontextmanager
    async def _dial(self, address: str) -> AsyncIterator[WorkerClient]:
        yield _Client(self, self._network, self._listening, self._dice, address)


class Planes:
    """All that are `up`, as workers and users reach them: by address."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self.up: list[Plane] = []

    @property
    def addresses(self) -> list[str]:
        return [plane.address for plane in self.up]

    @property
    def leading(self) -> Plane | None:
        """One that leads, or thinks so."""
        return next((plane for plane in self.up if plane.leads), None)

    async def ask(self, address: str, source: str, method: str, request: Any, timeout: float) -> Any:
        """Call a method of the one at `address`. Raises Unavailable where there is none."""
        plane = next((plane for plane in self.up if plane.address == address), None)
        if plane is None:
            await asyncio.sleep(self._weather.way())
            raise Unavailable("UNREACHABLE", f"nobody listens at {address}")
        given = type(request)()
        given.CopyFrom(request)
        return await plane.asked(source, method, given, timeout)


class _Client:
    """A worker, as a control plane reaches it."""

    def __init__(
        self,
        plane: Plane,
        network: Network,
        listening: Listening,
        dice: random.Random,
        address: str,
    ) -> None:
        self._plane, self._network, self._listening = plane, network, listening
        self._dice, self._address, self._host = dice, address, address.split(":", maxsplit=1)[0]

    async def reports(self) -> AsyncGenerator[StatusReport, None]:
        await self._way()
        process = self._listening(self._address)
        if process is None:
            raise Refused("UNREACHABLE", f"nobody listens at {self._address}")
        async with aclosing(self._stream(process)) as stream:
            async for report in stream:
                yield report

    async def _stream(self, process: Process) -> AsyncGenerator[StatusReport, None]:
        sequence = 0
        while True:
            await process.running()
            if not process.alive:
                raise Unavailable("RESET", f"{self._address} is gone")
            sequence += 1
            changed, report = process.changed, process.report()
            report.sequence = sequence
            await self._way()
            if self._network.weather.bad and self._dice.random() < 0.02:
                raise Unavailable("RESET", "connection reset")
            yield report
            try:
                async with asyncio.timeout(3.0):
                    await changed.wait()
            except TimeoutError:
                pass

    async def apply(self, revision: Packed, timeout: float) -> RevisionAttempt:
        config = ApplyRequest.FromString(revision.request).config
        return cast(RevisionAttempt, await self._call(lambda process: process.apply(config), timeout))

    async def place(self, placement: bytes, timeout: float) -> None:
        request = PlaceRequest.FromString(placement)
        await self._call(lambda process: process.place(request), timeout)

    async def _call(self, does: Callable[[Process], Any], timeout: float) -> Any:
        async def handler() -> Any:
            process = self._listening(self._address)
            if process is None:
                raise Unavailable("UNREACHABLE", f"nobody listens at {self._address}")
            return await does(process)

        if not self._plane.serves:
            raise Unavailable("GONE", "the caller is gone")
        answer = await self._network.call(
            self._plane.name, self._host, handler, timeout, lambda: self._listening(self._address) is not None
        )
        await self._plane.machine.running()
        return answer

    async def _way(self) -> None:
        """On its way to the worker, or back. Raises Unavailable where that takes too long."""
        await asyncio.sleep(self._network.weather.way())
        waited = 0.0
        while self._network.cut(self._plane.name, self._host):
            if waited >= KEPT_ALIVE:
                raise Unavailable("UNREACHABLE", f"{self._address} does not answer")
            await asyncio.sleep(1.0)
            waited += 1.0
        await self._plane.machine.running()
        if not self._plane.serves:
            raise Unavailable("GONE", "the caller is gone")
