"""How a worker leaves: told to by a signal, by the control plane, or by another process that has taken its place.

It stays in the fleet until its shards are with others: readiness goes off, it says that it drains, registers and
reports as before, and hands each shard over when the control plane revokes it. Where nobody revokes them it lets go
of them by itself; nothing is lost by that, their messages wait until the control plane gives them to another worker.
"""

import asyncio
import contextlib
from typing import Final

import structlog

from troupe.chassis.errors import TroupeError
from troupe.chassis.rpc import Serving
from troupe.dataplane.actors.host import Host
from troupe.dataplane.load import Reporter
from troupe.dataplane.placement import Placement
from troupe.dataplane.service_agent import SERVICE as AGENT_SERVICE

HANDOVER: Final = 15.0
"""Seconds that all handovers together get: each has a bound of its own, and they go on beside each other."""
GOODBYE: Final = 2.0
"""Seconds that a worker that has released everything stays to be heard: its shards wait for its last report."""
LAST_WORD: Final = 0.3
"""The same where the control plane did not ask for them: for a report on its way."""

log = structlog.get_logger()


class Departure:
    """Whether, why and how one process leaves. `patience` is in seconds."""

    def __init__(self, host: Host, placement: Placement, reporter: Reporter, serving: Serving, patience: float) -> None:
        self._host, self._placement, self._reporter, self._serving = host, placement, reporter, serving
        self._patience = patience
        self._asked = asyncio.Event()
        self.why = ""
        """In words, once it leaves; before, empty."""
        self.replaced: TroupeError | None = None
        """What the control plane says, where another process has taken this one's place."""

    def ask(self, why: str) -> None:
        """It is to leave. Only the first reason counts."""
        if not self._asked.is_set():
            self.why = why
            self._asked.set()

    def replace(self, error: TroupeError) -> None:
        """It is to leave, and to wait for nobody: the control plane has given its shards away already."""
        self.replaced = error
        self.ask("another process has taken its place")

    async def asked(self) -> None:
        """Wait until it is to leave."""
        await self._asked.wait()

    async def made(self) -> None:
        """Leave: returns when this process holds nothing and its turns have ended, or have had `drain_timeout`. Each
        wait has a bound: for shards to be revoked `patience` seconds, and a few more for others to hear of it."""
        host = self._host
        log.info("draining", why=self.why, shards=host.held, turns=host.running)
        host.drain()
        self._reporter.leaving = self.why
        await self._set_ready(False)
        revoked = self.replaced is None and await self._revoked()
        if not revoked and self.replaced is None:
            log.warning("control plane has not moved all shards, letting go of them", shards=host.held)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANDOVER):
                await host.release()
        log.info("shards handed over", left=host.held, turns=host.running)
        await self._rested()
        await self._heard(GOODBYE if revoked else LAST_WORD)

    async def ready(self, ready: bool) -> None:
        """The process is ready for clients, or not; one that leaves never is again."""
        if not self.why:
            await self._set_ready(ready)
        if self.why:
            await self._set_ready(False)

    async def _set_ready(self, ready: bool) -> None:
        for service in ("", AGENT_SERVICE):
            await self._serving.set_health(service, serving=ready)

    async def _revoked(self) -> bool:
        """Wait until all that is this process's was revoked; False where that does not come."""
        host, placement = self._host, self._placement
        try:
            async with asyncio.timeout(self._patience):
                while any(one.shard not in placement.revoked for one in placement.mine):
                    await host.moved()
        except TimeoutError:
            return False
        return True

    async def _rested(self) -> None:
        """Until no turn runs, or their time is over."""
        host = self._host
        try:
            async with asyncio.timeout_at(host.drain_until):
                while host.running:
                    await host.moved()
        except TimeoutError:
            log.info("time is over for turns, putting them back", turns=host.running)
        else:
            log.info("all turns have ended")

    async def _heard(self, patience: float) -> None:
        """Until the control plane has given away what was released here."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._placement.mine:
                    await self._host.moved()
