"""The connection to one worker, where it ends."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.fake_clock import FakeClock

from troupe.chassis.errors import Internal, Unavailable
from troupe.controlplane.clients import Refused, WorkerClient
from troupe.controlplane.link import Link, LinkTimes
from troupe.controlplane.packed import Packed
from troupe.controlplane.placement import Member
from troupe.controlplane.pushes import RetryTimes
from troupe.controlplane.sending import Sending
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

    async def apply(self, revision: Packed, timeout: float) -> RevisionAttempt:
        self.applying.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.letting_go.set()
            await self.let_go.wait()
        return RevisionAttempt()

    async def place(self, placement: bytes, timeout: float) -> None:
        pass


class Heard:
    """What a link has learnt."""

    def __init__(self) -> None:
        self.refusals = 0
        self.answers: list[RevisionAttempt] = []

    def report(self, member: Member, report: StatusReport) -> None:
        pass

    def answer(self, member: Member, attempt: RevisionAttempt) -> None:
        self.answers.append(attempt)

    def refused(self, member: Member) -> None:
        self.refusals += 1


async def test_a_link_that_is_ended_while_its_connection_fails_ends() -> None:
    """The errors of a task group must not hide that its task was cancelled."""
    worker = SlowToLetGo()
    link = Link(MEMBER, worker.dial, Heard(), FakeClock(), lambda: 1.0, LinkTimes(), Sending())
    link.offer(Packed.of(ConfigSpec(revision_id="r", generation=1, term=1)))
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(10):
        await worker.applying.wait()
        worker.end.set()
        await worker.letting_go.wait()
        running.cancel()
        worker.let_go.set()
    await asyncio.wait([running], timeout=10)
    assert running.cancelled()
    assert worker.dials == 1


async def test_a_worker_that_does_not_report_is_given_up_and_dialled_again() -> None:
    class Silent(SlowToLetGo):
        async def reports(self) -> AsyncGenerator[StatusReport, None]:
            await asyncio.Event().wait()
            yield StatusReport()

    worker, clock = Silent(), FakeClock()
    link = Link(MEMBER, worker.dial, Heard(), clock, lambda: 1.0, LinkTimes(first_report=0.01), Sending())
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(10):
        while worker.dials < 3:
            clock.advance(5.0)
            await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(("apart", "gone"), [(0.3, True), (0.6, False)])
async def test_three_refused_dials_within_a_second_say_that_the_process_is_gone(apart: float, gone: bool) -> None:
    class Gone(SlowToLetGo):
        async def reports(self) -> AsyncGenerator[StatusReport, None]:
            if self.dials:
                raise Refused("UNAVAILABLE", "nobody listens")
            yield StatusReport()

    worker, heard, clock = Gone(), Heard(), FakeClock()
    times = LinkTimes(redial=RetryTimes(first=apart, longest=apart))
    running = asyncio.create_task(Link(MEMBER, worker.dial, heard, clock, lambda: 1.0, times, Sending()).run())
    for _ in range(10):
        await _settled()
        clock.advance(apart)
    assert (heard.refusals > 0) is gone
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_apply_that_gets_an_error_is_told_like_an_answer_and_tried_again_at_the_clocks_pace() -> None:
    class Failing(SlowToLetGo):
        applies = 0

        async def apply(self, revision: Packed, timeout: float) -> RevisionAttempt:
            self.applies += 1
            raise Unavailable("BUSY", "later") if self.applies < 3 else Internal("DEFECT", "never")

    worker, heard, clock = Failing(), Heard(), FakeClock()
    link = Link(MEMBER, worker.dial, heard, clock, lambda: 1.0, LinkTimes(), Sending())
    link.offer(Packed.of(ConfigSpec(revision_id="r", generation=1, term=1)))
    running = asyncio.create_task(link.run())
    for expected, seconds in ((1, 0.9), (1, 0.1), (2, 1.9), (2, 0.1), (3, 100.0), (3, 100.0)):
        await _settled()
        assert worker.applies == expected
        clock.advance(seconds)
    assert [(answer.error.reason, answer.error.retryable) for answer in heard.answers] == [
        ("BUSY", True),
        ("BUSY", True),
        ("DEFECT", False),
    ]
    assert link.parked
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_revisions_wait_for_room_on_the_way_but_never_for_a_worker_that_does_not_read() -> None:
    clock, sending, begun = FakeClock(), Sending(most=250), 0

    class Stuck(SlowToLetGo):
        async def apply(self, revision: Packed, timeout: float) -> RevisionAttempt:
            nonlocal begun
            begun += 1
            return await super().apply(revision, timeout)

    revision = Packed("r", 1, 1, "", b"x" * 100)
    tasks = []
    for _ in range(5):
        link = Link(MEMBER, Stuck().dial, Heard(), clock, lambda: 1.0, LinkTimes(), sending)
        link.offer(revision)
        tasks.append(asyncio.create_task(link.run()))
    for expected in (2, 4, 5):
        await _settled()
        assert begun == expected
        clock.advance(1.0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=0.1)


async def test_what_is_larger_than_all_the_room_goes_alone() -> None:
    sending = Sending(most=10)
    async with asyncio.timeout(10), sending.room(100):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), sending.room(1):
                pass
    async with asyncio.timeout(10), sending.room(1), sending.room(9):
        pass


async def _settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)
