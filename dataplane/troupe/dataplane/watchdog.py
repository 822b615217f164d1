"""Notices when something blocks the event loop: how long it was, once it is over, and while it lasts what it is.

The second is a thread's to see. It reads what the loop's thread is just doing; it cannot end it. A loop that is blocked
for good says nothing more to the control plane, which gives its shards to others when its lease is over.
"""

import asyncio
import contextlib
import math
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final

import structlog

from troupe.chassis.clock import Clock
from troupe.dataplane import metrics

BEAT: Final = 0.25
"""Seconds between two looks."""
LATE: Final = 0.25
"""Seconds of delay that count as a block."""
NAMED: Final = 1.0
"""Seconds of delay after which what blocks the loop is looked for."""
FRAMES: Final = 5
"""Innermost calls of it that are told."""
MAX_BLOCKS: Final = 256

log = structlog.get_logger()


class LoopWatch:
    """Remembers the last blocks of the loop. `whose` says, from any thread, what message a task works for, by the
    task's name: fields for the log, none where it is not known."""

    def __init__(self, clock: Clock, whose: Callable[[str], Mapping[str, str]] = lambda _: {}) -> None:
        self._clock, self.whose = clock, whose
        self._blocks: deque[tuple[float, float]] = deque(maxlen=MAX_BLOCKS)
        self._beat = math.inf
        self._blocker = ""

    async def run(self) -> None:
        """Watch the running loop until cancelled."""
        with self._watched_from_outside():
            while True:
                began = self._beat = self._clock.monotonic()
                await self._clock.sleep(BEAT)
                now = self._clock.monotonic()
                if (late := now - began - BEAT) > LATE:
                    self._blocks.append((now, late))
                    log.warning("event loop was blocked", seconds=round(late, 3))

    def blocked(self, since: float) -> float:
        """How many seconds the last block took that ended when Clock.monotonic() was `since` or later, or has not been
        noticed yet; 0 where there was none."""
        now = self._clock.monotonic()
        if (late := now - self._beat - BEAT) > LATE:
            return late
        ended, seconds = self._blocks[-1] if self._blocks else (0.0, 0.0)
        return seconds if ended >= since else 0.0

    def share(self, within: float) -> tuple[float, str]:
        """The share of the last `within` seconds in which the loop was blocked, and the code that was seen last to do
        that; empty where it was too quick to be seen."""
        since = self._clock.monotonic() - within
        blocked = sum(ended - max(since, ended - seconds) for ended, seconds in self._blocks if ended > since)
        return blocked / within, self._blocker

    @contextlib.contextmanager
    def _watched_from_outside(self) -> Iterator[None]:
        stop = threading.Event()
        watched = (stop, threading.get_ident(), asyncio.get_running_loop())
        thread = threading.Thread(target=self._look_on, args=watched, name="loop watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _look_on(self, stop: threading.Event, thread: int, loop: asyncio.AbstractEventLoop) -> None:
        told = -1.0
        while not stop.wait(BEAT):
            beat = self._beat
            late = self._clock.monotonic() - beat - BEAT
            metrics.LOOP_BLOCKED.set(late if late > LATE else 0.0)
            if late > NAMED and beat != told:
                told = beat
                self._name(late, beat, thread, loop)

    def _name(self, late: float, beat: float, thread: int, loop: asyncio.AbstractEventLoop) -> None:
        task, frame = asyncio.current_task(loop), sys._current_frames().get(thread)
        calls = [
            f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}"
            for frame, line in islice(traceback.walk_stack(frame), FRAMES)
        ]
        whose = self.whose(task.get_name()) if task is not None else {}
        if self._beat != beat:
            return  # over meanwhile: this is something else
        self._blocker = " of ".join(part for part in (calls[0] if calls else "", " ".join(whose.values())) if part)
        log.error("event loop is blocked", seconds=round(late, 1), where=" < ".join(calls), **whose)
