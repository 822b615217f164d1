"""A blocked event loop is noticed, and forgotten again."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from troupe.chassis.clock import SystemClock
from troupe.dataplane import watchdog
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
    assert watch.blocked(clock.time - 10.0) == pytest.approx(noticed)


async def test_a_block_is_forgotten_after_a_while() -> None:
    clock = Stalling(2.0, *[0.0] * 40)
    watch = LoopWatch(clock)
    with pytest.raises(StopAsyncIteration):
        await watch.run()
    assert watch.blocked(clock.time - 40 * BEAT - 0.1) == pytest.approx(2.0)
    assert watch.blocked(clock.time - 40 * BEAT + 0.1) == 0.0


async def test_a_block_that_the_watch_has_not_been_able_to_notice_is_one() -> None:
    clock = Stalling(0.0)
    watch = LoopWatch(clock)
    assert watch.blocked(0.0) == 0.0
    with pytest.raises(StopAsyncIteration):
        await watch.run()
    clock.time += BEAT + 0.5

    assert watch.blocked(clock.time) == pytest.approx(0.5)


async def test_the_share_that_was_blocked_is_of_the_window_alone() -> None:
    clock = Stalling(4.0, *[0.0] * 20, 3.0)
    watch = LoopWatch(clock)
    with pytest.raises(StopAsyncIteration):
        await watch.run()
    # The second block, and what is in the window of the first
    assert watch.share(10.0)[0] == pytest.approx((3.0 + 1.75) / 10.0)
    assert watch.share(5.0)[0] == pytest.approx(3.0 / 5.0)


def block(named: Callable[[], bool]) -> None:
    """Until it is named, and for as long again as that takes at least."""
    while not named():
        time.sleep(0.01)
    time.sleep(0.3)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT", 0.02)
    monkeypatch.setattr(watchdog, "NAMED", 0.3)


@pytest.mark.usefixtures("quick")
async def test_code_that_blocks_the_loop_is_named_once_while_it_does() -> None:
    seen: list[str] = []
    began = time.monotonic()

    def whose(task: str) -> dict[str, str]:
        seen.append(task)
        return {"agent": "clerk", "session": "s", "message": task}

    watch = LoopWatch(SystemClock(), whose)
    with capture_logs() as logs:
        watching = asyncio.create_task(watch.run())
        await asyncio.sleep(0.05)
        named = asyncio.current_task()
        assert named is not None
        named.set_name("message-1")
        before = time.monotonic()
        # Before the loop can say anything of it
        block(lambda: any("message" in line for line in logs))
        took = time.monotonic() - before
        await asyncio.sleep(0.05)
        watching.cancel()
    # Where the machine is busy, this is not all that blocked it
    (said,) = [line for line in logs if " block < " in line.get("where", "")]
    assert said["event"] == "event loop is blocked"
    assert "test_code_that_blocks_the_loop_is_named_once_while_it_does" in said["where"]
    assert (said["agent"], said["session"], said["message"]) == ("clerk", "s", "message-1")
    assert said["seconds"] >= 0.3
    assert seen.count("message-1") == 1
    share, blocker = watch.share(10.0)
    assert 0.9 * took <= share * 10.0 <= time.monotonic() - began
    assert blocker.endswith(" block of clerk s message-1")
    assert max(line["seconds"] for line in logs if line["event"] == "event loop was blocked") >= 0.9 * took


@pytest.mark.usefixtures("quick")
async def test_the_thread_ends_with_the_watch() -> None:
    watching = asyncio.create_task(LoopWatch(SystemClock()).run())
    await asyncio.sleep(0.01)
    assert "loop watchdog" in {thread.name for thread in threading.enumerate()}
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert "loop watchdog" not in {thread.name for thread in threading.enumerate()}
