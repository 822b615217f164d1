"""Looks, beside all traffic, at what waits in the mailboxes and sessions that a gateway sends to."""

import asyncio
from typing import Never

import structlog

from troupe.broker.addressing import mailbox
from troupe.broker.port import Broker
from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.dataplane.admission import SAMPLED_FOR, Admission
from troupe.dataplane.state.port import StateStore

log = structlog.get_logger()


class Sampler:
    """Feeds `admission` while `run` runs."""

    def __init__(self, admission: Admission, broker: Broker, store: StateStore, clock: Clock) -> None:
        self._admission, self._broker, self._store, self._clock = admission, broker, store, clock
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There is something to look at."""
        self._woken.set()

    async def run(self) -> Never:
        """Look at what is wanted, at most every SAMPLED_FOR seconds. What cannot be seen now is looked at again when
        somebody sends to it."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._sample()
            except TroupeError as error:
                log.debug("backlog not seen", error=str(error))
            await self._clock.sleep(SAMPLED_FOR)

    async def _sample(self) -> None:
        wanted = self._admission.take_wanted()
        for shard in wanted.shards:
            queued = await self._broker.depth(mailbox(shard))
            waiting = await self._store.backlog(shard)
            self._admission.sampled(shard, queued.messages, waiting, self._clock.monotonic())
        for key in wanted.sessions:
            waiting = await self._store.session_backlog(key)
            self._admission.sampled_session(key, waiting, self._clock.monotonic())
