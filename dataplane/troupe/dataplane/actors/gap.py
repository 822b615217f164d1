"""Giving up messages that are lost, and never one that is only late.

A gap is passed over when `order_timeout` has gone by since this subscription first delivered anything, a probe
published to the mailbox after that has come back on the same subscription, everything delivered before the probe
has been placed, and the missing number is still nowhere.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.errors import ResourceExhausted, Unavailable
from troupe.chassis.ids import uuid7
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.port import Fenced, Owner
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Envelope

if TYPE_CHECKING:
    from troupe.dataplane.actors.actor import Actor

PROBE_TIMEOUT = 20.0
"""Seconds after which a probe that did not come back is sent again."""

log = structlog.get_logger()


class GapWatch:
    """Watches the gaps of one subscription's sessions, one gap of a session at a time."""

    def __init__(self, owner: Owner, world: World) -> None:
        self._owner, self._world = owner, world
        self._active_since: float | None = None
        self._watched: set[SessionKey] = set()
        self._probes: dict[str, asyncio.Future[None]] = {}

    def delivered(self) -> None:
        """The subscription delivers."""
        if self._active_since is None:
            self._active_since = self._world.clock.monotonic()

    def probe_returned(self, probe_id: str) -> None:
        probe = self._probes.pop(probe_id, None)
        if probe is not None and not probe.done():
            probe.set_result(None)

    def watch(self, actor: "Actor", missing: Number) -> None:
        """See to it that the session does not wait for `missing` for ever."""
        if actor.key not in self._watched:
            self._watched.add(actor.key)
            metrics.GAPS.labels("awaited").inc()
            self._world.spawn(self._watch(actor, missing))

    async def _watch(self, actor: "Actor", missing: Number) -> None:
        try:
            passed = await self._outlast(actor, missing)
        except Fenced as fenced:
            self._world.fenced(self._owner, fenced.epoch)
            return
        finally:
            self._watched.discard(actor.key)
        actor.step()
        if passed:
            metrics.GAPS.labels("passed_over").inc()
            log.warning(
                "gap passed over",
                agent=actor.key.agent,
                session=actor.key.session,
                stream=missing.stream,
                sequence=missing.sequence,
            )

    async def _outlast(self, actor: "Actor", missing: Number) -> bool:
        """True once the number was given up, False once it is not missing any more."""
        clock, began = self._world.clock, self._world.clock.monotonic()
        if self._active_since is None:
            await self._probe(actor.key)
        while actor.lacks(missing):
            since = max(began, self._active_since or began)
            wait = since + self._world.order_timeout - clock.monotonic()
            if wait > 0:
                await clock.sleep(min(wait, 1.0))
                continue
            if not await self._probe(actor.key):
                continue
            await actor.place_all()
            return await actor.pass_over(missing)
        return False

    async def _probe(self, key: SessionKey) -> bool:
        """Whether a message published now comes back on this subscription, in time."""
        probe = Envelope(id=uuid7(), target=key.ref(), kind=envelope_pb2.ENVELOPE_KIND_PROBE)
        returned = self._probes[probe.id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._world.broker.publish(probe)
                await returned
        except (TimeoutError, Unavailable, ResourceExhausted):
            await self._world.clock.sleep(1.0)
            return False
        finally:
            self._probes.pop(probe.id, None)
        return True
