"""A probe proves that nothing is on its way only on the channel that it went out on."""

import asyncio
from typing import Any

import pytest
from support.fake_clock import FakeClock

from troupe.broker.addressing import SessionKey
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.inbox import Run
from troupe.dataplane.state.session import Owner

KEY = SessionKey("default", "default", "clerk", "s")


class Session:
    """Misses number 1 until it is passed over."""

    key = KEY

    def __init__(self) -> None:
        self.missing = [Run("theirs", 1, 1)]

    def gaps(self) -> list[Run]:
        return self.missing

    async def place_all(self) -> None:
        pass

    async def pass_over(self, run: Run) -> int:
        self.missing = []
        return len(run)

    def step(self) -> None:
        pass


class Around:
    """As much of a worker as a watch needs: its probes are kept back."""

    order_timeout = 30.0

    def __init__(self) -> None:
        self.clock, self.broker, self.probes = FakeClock(), self, list[str]()
        self.tasks: list[asyncio.Task[None]] = []

    async def publish(self, envelope: Any) -> None:
        self.probes.append(envelope.id)

    def spawn(self, work: Any) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def passes(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock.advance(1.0)
            for _ in range(5):
                await asyncio.sleep(0)


@pytest.mark.parametrize("channel_breaks", [False, True])
async def test_a_probe_that_comes_back_over_another_channel_proves_nothing(channel_breaks: bool) -> None:
    around, session = Around(), Session()
    watch = GapWatch(Owner(0, 1, "i"), around)  # type: ignore[arg-type]
    watch.delivered(1)
    watch.watch(session)
    await around.passes(31)
    (probe,) = around.probes
    if channel_breaks:
        watch.delivered(2)
        watch.delivered(1)  # what was on its way over the old one comes late
    watch.probe_returned(probe)
    await around.passes(1)
    assert session.missing == ([Run("theirs", 1, 1)] if channel_breaks else [])
    # Then the time counts anew, from the first delivery over the new channel, and another probe is sent
    await around.passes(31)
    assert len(around.probes) == 1 + channel_breaks
    for task in around.tasks:
        task.cancel()
