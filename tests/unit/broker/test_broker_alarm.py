"""One timer to the next moment: it rings at the earliest, once, and costs nothing in between."""

import asyncio
import contextlib
from collections.abc import Iterator

from troupe.broker.addressing import task_queue
from troupe.broker.alarm import Alarm
from troupe.broker.memory import MemoryBroker
from troupe.broker.port import Delivery
from troupe.v1.envelope_pb2 import Envelope, SessionRef

EPOCH = 1_700_000_000.0


class _Loop(asyncio.SelectorEventLoop):
    """Its clock moves when it is told to."""

    passed = 0.0

    def time(self) -> float:
        return self.passed

    def pass_to(self, moment: float) -> None:
        self.passed = moment
        self.run_until_complete(_turns())


class _Clock:
    """The loop's time, as a clock that was set shows it."""

    def __init__(self, loop: _Loop) -> None:
        self._loop, self.offset = loop, EPOCH

    def now(self) -> float:
        return self._loop.passed + self.offset

    def monotonic(self) -> float:
        return self._loop.passed

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("an alarm does not sleep")


def test_it_rings_at_the_earliest_moment_and_then_at_those_that_it_is_set_to() -> None:
    with _running() as loop:
        rang: list[float] = []
        alarm = Alarm(_Clock(loop), lambda: rang.append(loop.passed))

        async def set_it() -> None:
            for moment in (9.0, 3.0, 6.0):
                alarm.set(EPOCH + moment)

        loop.run_until_complete(set_it())
        for moment in (2.9, 3.0, 6.0, 9.0):
            loop.pass_to(moment)
        assert rang == [3.0]

        loop.run_until_complete(set_it())
        loop.pass_to(9.0)

        assert rang == [3.0, 9.0], "what has passed already rings at once"


def test_it_does_not_ring_once_it_is_off() -> None:
    with _running() as loop:
        rang: list[float] = []
        alarm = Alarm(_Clock(loop), lambda: rang.append(loop.passed))

        async def set_it() -> None:
            alarm.set(EPOCH + 1.0)
            alarm.off()

        loop.run_until_complete(set_it())
        loop.pass_to(2.0)

        assert rang == []


def test_a_deferred_task_comes_exactly_when_it_is_due_also_when_the_clock_was_set_back() -> None:
    with _running() as loop:
        clock = _Clock(loop)
        broker = MemoryBroker(clock)
        came: list[float] = []
        held: list[Delivery] = []

        def take(delivery: Delivery) -> None:
            came.append(loop.passed)
            held.append(delivery)

        async def begin() -> None:
            await broker.declare(1, ["gpu"])
            await broker.consume(task_queue("gpu"), take)
            for _ in range(3):
                await broker.publish(Envelope(target=SessionRef(agent="clerk", session="s")), pool="gpu")

        async def defer() -> None:
            for delivery, delay in zip(held[:3], (5.0, 1.0, 3.0), strict=True):
                await broker.defer(delivery, delay)

        loop.run_until_complete(begin())
        loop.pass_to(0.0)
        loop.run_until_complete(defer())
        for moment in (0.99, 1.0, 2.99, 3.0):
            loop.pass_to(moment)
        clock.offset -= 2.0
        for moment in (5.0, 6.99, 7.0, 100.0):
            loop.pass_to(moment)

        assert came == [0.0, 0.0, 0.0, 1.0, 3.0, 7.0]


@contextlib.contextmanager
def _running() -> Iterator[_Loop]:
    """A loop that is closed at the end."""
    with contextlib.closing(_Loop()) as loop:
        yield loop


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
