"""Taking a session up from another owner, under whose mark one of its messages may still run."""

from collections.abc import Callable
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.session import Entry, Mark, Owner

LOOK: Final = 0.5
"""Seconds between two looks whether a mark has gone."""
UNKNOWN_DEADLINE: Final = 600.0
"""Seconds that a turn may go on under its mark where no revision says how long it may take."""

log = structlog.get_logger()


class Predecessors:
    """What other owners may still run of one session."""

    def __init__(self, key: SessionKey, owner: Owner, world: World) -> None:
        self._key, self._owner, self._world = key, owner, world
        self._seen: tuple[Mark, float] | None = None

    async def outlast(self, entry: Entry, goes_on: Callable[[], bool]) -> bool:
        """Whether the message is to be taken over from its mark; False once that has gone, or nothing `goes_on`.

        It is when its owner is known to be gone, when this process has another's name for itself and does not run it
        any more, or when its time is over, counted from when this owner first saw the mark."""
        mark = entry.running
        while mark is not None and goes_on():
            if self._is_over(entry, mark):
                log.info(
                    "taking a message over",
                    session=str(self._key),
                    message=entry.message_id,
                    instance=mark.instance,
                    epoch=mark.epoch,
                )
                metrics.TAKEOVERS.inc()
                return True
            await self._world.clock.sleep(LOOK)
            found = await self._world.persist("look-up", lambda: self._world.store.waiting(self._key, entry.message_id))
            if found is None or (found.number, found.running) != (entry.number, mark):
                return False
        return False

    def _is_over(self, entry: Entry, mark: Mark) -> bool:
        world, now = self._world, self._world.clock.monotonic()
        if self._seen is None or self._seen[0] != mark:
            self._seen = (mark, now)
        if mark.instance == self._owner.instance:
            return not world.goes_on(self._key, entry.number)
        return not world.is_live(mark.instance) or now - self._seen[1] >= self._timeout()

    def _timeout(self) -> float:
        if self._world.handover_timeout is not None:
            return self._world.handover_timeout
        behaviour = self._world.behaviour(self._key)
        return behaviour.deadline if behaviour is not None else UNKNOWN_DEADLINE
