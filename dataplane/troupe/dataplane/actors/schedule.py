"""One shard's schedule: what is due there takes its place on time, as the store tells the time.

The timer only asks, sooner or later; whatever the clocks do, what is due is found by the next look at the latest.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.chassis import fault_points
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.session import Owner

TICK: Final = 0.02
"""Seconds between two looks, at least, unless more was due than one look takes."""
AGAIN: Final = 1.0
"""Seconds until the store is asked again that could not be."""


class Schedule:
    """`busy` names the sessions in which a turn runs whose message does not wait; `changed` hears in which of them
    something took its place; `goes_on` says whether the shard is still this owner's."""

    def __init__(
        self,
        owner: Owner,
        world: World,
        *,
        busy: Callable[[], Collection[SessionKey]],
        changed: Callable[[Sequence[SessionKey]], None],
        goes_on: Callable[[], bool],
    ) -> None:
        self._owner, self._world = owner, world
        self._busy, self._changed, self._goes_on = busy, changed, goes_on
        self._looking = asyncio.Lock()
        self._alarm: asyncio.TimerHandle | None = None

    def expect(self, due: float) -> None:
        """Something is due then, in seconds since the epoch."""
        self._look_in(due - self._world.clock.now())

    async def look(self) -> None:
        """Let what is due take its place. What fails is logged, and tried again."""
        outage = self._world.outages["schedule not looked at, trying again", ""]
        async with self._looking:
            self._disarm()
            try:
                await self._look()
            except Fenced as fenced:
                self._world.fenced(self._owner, fenced.epoch)
            except Exception as error:
                outage.failed(error, shard=self._owner.shard)
                self._look_in(AGAIN)
            else:
                outage.over()

    def stop(self) -> None:
        """Ask no more."""
        self._disarm()

    async def _look(self) -> None:
        while self._goes_on():
            due = await self._world.store.due(self._owner, self._busy())
            fault_points.reach("due.after")
            if not self._goes_on():
                return
            self._changed(due.sessions)
            if due.following is None:
                return
            if due.following > 0:
                self._look_in(due.following)
                return

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + max(TICK, seconds)
        if self._goes_on() and (self._alarm is None or at < self._alarm.when()):
            self._disarm()
            self._alarm = loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._world.spawn(self.look())

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
