"""Giving up messages that are lost, and never one that is only late.

What a session waits for is passed over when `order_timeout` has gone by since it was first missed, and since this
channel first delivered anything; a probe published to the mailbox after that has come back on the same channel;
everything delivered before the probe has been placed; and the numbers are still nowhere. One probe proves all that a
session misses by then.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import ResourceExhausted, Unavailable
from troupe.chassis.ids import uuid7
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.inbox import Run
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.session import Owner
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Envelope

PROBE_TIMEOUT = 20.0
"""Seconds after which a probe that did not come back is sent again."""
LOOK = 1.0
"""Seconds between two looks whether something is still missing."""

log = structlog.get_logger()


class Waiting(Protocol):
    """A session, as far as it waits for numbers."""

    key: SessionKey

    def gaps(self) -> Sequence[Run]:
        """What it misses: nowhere in memory, not running. Empty once it is not this owner's to wait any more."""
        ...

    async def place_all(self) -> None:
        """Return once all that was delivered stands in the store, or has started. Raises Fenced."""
        ...

    async def pass_over(self, run: Run) -> int:
        """Give up those of the run that are still missing, from its first; how many. Raises Fenced."""
        ...

    def step(self) -> None:
        """Something may start."""
        ...


class GapWatch:
    """Watches the gaps of one subscription's sessions."""

    def __init__(self, owner: Owner, world: World) -> None:
        self._owner, self._world = owner, world
        self._channel = -1
        self._active_since: float | None = None
        self._watched: set[Waiting] = set()
        self._probes: dict[str, asyncio.Future[bool]] = {}

    def delivered(self, channel: int) -> None:
        """The subscription delivers, over this channel. What was asked over one before says nothing any more: what was
        unacked there may stand behind the probe now."""
        if channel <= self._channel:
            return
        self._channel, self._active_since = channel, self._world.clock.monotonic()
        for probe in self._probes.values():
            if not probe.done():
                probe.set_result(False)

    def probe_returned(self, probe_id: str) -> None:
        probe = self._probes.pop(probe_id, None)
        if probe is not None and not probe.done():
            probe.set_result(True)

    def watch(self, session: Waiting) -> None:
        """See to it that the session does not wait for ever for what it misses."""
        if session not in self._watched:
            self._watched.add(session)
            metrics.GAPS.labels("awaited").inc()
            self._world.spawn(self._watch(session))

    async def _watch(self, session: Waiting) -> None:
        try:
            await self._outlast(session)
        except Fenced as fenced:
            self._world.fenced(self._owner, fenced.epoch)
            return
        finally:
            self._watched.discard(session)
        session.step()

    async def _outlast(self, session: Waiting) -> None:
        """Return once nothing is missing."""
        clock, missed = self._world.clock, dict[str, Missed]()
        while runs := session.gaps():
            now = clock.monotonic()
            missed = {run.stream: Missed.since(run, missed.get(run.stream), now) for run in runs}
            if self._active_since is None:
                await self._probe(session.key)
                continue
            due = [(max(self._active_since, gap.at) + self._world.order_timeout, gap.run) for gap in missed.values()]
            ripe = [run for at, run in due if at <= now]
            if not ripe:
                await clock.sleep(min(LOOK, min(at for at, _ in due) - now))
            elif await self._probe(session.key):
                await session.place_all()
                passed = [await self._pass_over(session, run) for run in ripe]
                session.step()
                if not any(passed):
                    await clock.sleep(LOOK)

    async def _pass_over(self, session: Waiting, run: Run) -> int:
        passed = await session.pass_over(run)
        if passed:
            metrics.GAPS.labels("passed_over").inc()
            log.warning(
                "gap passed over",
                agent=session.key.agent,
                session=session.key.session,
                stream=run.stream,
                sequence=run.first,
                messages=passed,
            )
        return passed

    async def _probe(self, key: SessionKey) -> bool:
        """Whether a message published now comes back over the channel that delivers now, in time."""
        known = self._active_since is not None
        probe = Envelope(id=uuid7(), target=key.ref(), kind=envelope_pb2.ENVELOPE_KIND_PROBE)
        returned = self._probes[probe.id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._world.broker.publish(probe)
                return await returned and known
        except (TimeoutError, Unavailable, ResourceExhausted):
            await self._world.clock.sleep(1.0)
            return False
        finally:
            self._probes.pop(probe.id, None)


class Missed:
    """What a session misses of one stream, and since when, on Clock.monotonic()."""

    def __init__(self, run: Run, at: float) -> None:
        self.run, self.at = run, at

    @classmethod
    def since(cls, run: Run, before: "Missed | None", now: float) -> "Missed":
        """What is still missing of a run was missed as long as that."""
        if before is not None and run.within(before.run) is not None:
            return cls(run, before.at)
        return cls(run, now)
