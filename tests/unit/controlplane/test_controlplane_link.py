"""The connection to one worker, where it ends."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.fake_clock import FakeClock

from troupe.chassis.errors import Unavailable
from troupe.controlplane.clients import WorkerClient
from troupe.controlplane.link import Link, LinkTimes
from troupe.controlplane.placement import Member
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import RevisionAttempt, StatusReport

MEMBER = Member("a", "a-1", "a:1")


class SlowToLetGo:
    """A worker whose connection ends when it is told, and whose Apply takes its time to be cancelled."""

    def __init__(self) -> None:
        self.applying, self.end, self.letting_go, self.let_go = (asyncio.Event() for _ in range(4))
        self.dials = 0

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[WorkerClient]:
        self.dials += 1
        yield self

    async def reports(self) -> AsyncGenerator[StatusReport, None]:
        yield StatusReport(worker_id="a", instance_id="a-1")
        await self.end.wait()
        raise Unavailable("UNAVAILABLE", "the worker is gone")

    async def apply(self, config: ConfigSpec, timeout: float) -> RevisionAttempt:
        self.applying.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.letting_go.set()
            await self.let_go.wait()
        return RevisionAttempt()

    async def place(self, placement: PlaceRequest, timeout: float) -> None:
        pass


async def heard(member: Member, report: StatusReport) -> None:
    pass


async def test_a_link_that_is_ended_while_its_connection_fails_ends() -> None:
    """The errors of a task group must not hide that its task was cancelled."""
    worker = SlowToLetGo()
    link = Link(MEMBER, worker.dial, heard, FakeClock(), lambda: 1.0, LinkTimes())
    link.offer(ConfigSpec(revision_id="r", generation=1, term=1))
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(5):
        await worker.applying.wait()
        worker.end.set()
        await worker.letting_go.wait()
        running.cancel()
        worker.let_go.set()
    await asyncio.wait([running], timeout=1)
    assert running.cancelled()
    assert worker.dials == 1


async def test_a_worker_that_does_not_report_is_given_up_and_dialled_again() -> None:
    class Silent(SlowToLetGo):
        async def reports(self) -> AsyncGenerator[StatusReport, None]:
            await asyncio.Event().wait()
            yield StatusReport()

    worker, clock = Silent(), FakeClock()
    link = Link(MEMBER, worker.dial, heard, clock, lambda: 1.0, LinkTimes(first_report=0.01))
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(5):
        while worker.dials < 3:
            clock.advance(5.0)
            await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
