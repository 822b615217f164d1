"""A blocked event loop is noticed, and forgotten again."""

import pytest

from troupe.dataplane.watchdog import BEAT, LoopWatch


class Stalling:
    """A clock whose sleeps take as much longer as the test says; when nothing is left to say it ends the watch."""

    def __init__(self, *delays: float) -> None:
        self.time = 1000.0
        self._delays = list(delays)

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        if not self._delays:
            raise StopAsyncIteration
        self.time += seconds + self._delays.pop(0)


@pytest.mark.parametrize(("delay", "noticed"), [(0.0, 0.0), (0.2, 0.0), (0.3, 0.3), (4.0, 4.0)])
async def test_a_late_beat_is_a_block(delay: float, noticed: float) -> None:
    clock = Stalling(0.0, delay)
    watch = LoopWatch(clock)
    with pytest.raises(StopAsyncIteration):
        await watch.run()
    assert watch.blocked(within=10.0) == pytest.approx(noticed)


async def test_a_block_is_forgotten_after_a_while() -> None:
    clock = Stalling(2.0, *[0.0] * 40)
    watch = LoopWatch(clock)
    with pytest.raises(StopAsyncIteration):
        await watch.run()
    assert watch.blocked(within=40 * BEAT + 0.1) == pytest.approx(2.0)
    assert watch.blocked(within=40 * BEAT - 0.1) == 0.0
