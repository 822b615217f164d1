"""A worker's look at itself, once a second: how it gets on, and whether it is ready for more."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Never

import structlog

from troupe.chassis.clock import Clock
from troupe.dataplane import metrics
from troupe.dataplane.actors.coalescing import coalesce
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.progress import HeldUp
from troupe.dataplane.condition import Look, trouble
from troupe.dataplane.watchdog import LoopWatch

EVERY: Final = 1.0
"""Seconds between two looks."""
WINDOW: Final = 10.0
"""Seconds that shares are of."""

log = structlog.get_logger()


class Vitals:
    """See `troupe.dataplane.condition` for what is made of it."""

    def __init__(self, host: Host, watch: LoopWatch, clock: Clock) -> None:
        self._host, self._watch, self._clock = host, watch, clock
        self._spent = deque([(clock.monotonic(), time.thread_time())])
        self._held: Mapping[int, HeldUp] = {}
        self.trouble = ""
        """What keeps the worker from working, in one sentence; empty for nothing."""
        self.busy = 0.0
        """Share of the last WINDOW seconds in which the loop's thread had a processor."""

    def held_up(self) -> dict[int, float]:
        """For how many seconds something has been held up in each shard where it is, by number."""
        now = self._clock.monotonic()
        return {number: now - held.since for number, held in self._held.items() if held.since < now}

    async def run(self, ready: Callable[[bool], Awaitable[None]]) -> Never:
        """Look until cancelled, on the event loop's thread. `ready` hears when the worker is not ready any more, and
        when it is again."""
        while True:
            await self._clock.sleep(EVERY)
            before = self.trouble
            self.look()
            if bool(before) is not bool(self.trouble):
                metrics.IN_TROUBLE.set(bool(self.trouble))
                if self.trouble:
                    log.error("worker does not get on", cause=self.trouble)
                else:
                    log.info("worker gets on again", cause=before)
                await ready(not self.trouble)

    def look(self) -> None:
        """See how it is now."""
        now, spent = self._clock.monotonic(), time.thread_time()
        looked, before = self._spent[-1]
        if now > looked:
            self._host.world.hub.coalesce = coalesce((spent - before) / (now - looked))
        while len(self._spent) > 1 and self._spent[1][0] <= now - WINDOW:
            self._spent.popleft()
        since, before = self._spent[0]
        self._spent.append((now, spent))
        self.busy = min(1.0, (spent - before) / (now - since)) if now > since else 0.0
        self._held = self._host.held_up()
        oldest = min(self._held.values(), key=lambda held: held.since, default=None)
        share, blocker = self._watch.share(WINDOW)
        self.trouble = trouble(Look(now, oldest, self.busy, share, blocker), self.trouble)
