"""The sessions that a worker has in memory, and which of them leave it."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.actor import Actor
from troupe.dataplane.actors.progress import CODE
from troupe.dataplane.actors.shard import Shard
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import Fenced

GRACE: Final = 5.0
"""Seconds that a turn gets to end once it was told to at its deadline."""

log = structlog.get_logger()


class HotSessions:
    """In order of use, the one used longest ago first. At most `most`, but that only idle ones leave."""

    def __init__(self, world: World, most: int) -> None:
        self._world, self.most = world, most
        self._hot: OrderedDict[SessionKey, tuple[Actor, Shard]] = OrderedDict()
        self._suspects = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._hot)

    def __iter__(self) -> Iterator[Actor]:
        """Those of now, whatever leaves meanwhile."""
        return iter([actor for actor, _ in list(self._hot.values())])

    def get(self, key: SessionKey) -> Actor | None:
        """The session's actor, if it is in memory."""
        actor, _ = self._hot.get(key, (None, None))
        return actor

    def find(self, shard: Shard, key: SessionKey) -> Actor:
        """The session's actor, brought into memory if it is not there; it is the one used last now."""
        actor = shard.actors.get(key)
        if actor is None:
            if key not in self._hot:
                metrics.HOT_SESSIONS.inc()
            actor = shard.actors[key] = Actor(key, shard.owner, self._world, shard.gaps, shard.progress, self._suspects)
            self._hot[key] = (actor, shard)
            self._world.spawn(actor.activate())
            if len(self._hot) > self.most:
                self.passivate(len(self._hot) - self.most)
        self._hot.move_to_end(key)
        return actor

    def passivate(self, count: int, idle_for: float = 0.0) -> None:
        """Let up to `count` sessions leave that are idle, and not used for `idle_for` seconds: those used longest
        ago."""
        before = self._world.clock.monotonic() - idle_for
        for actor, shard in list(self._hot.values()):
            if count <= 0:
                break
            if actor.idle and actor.used <= before:
                actor.stop_async()
                self._drop(actor, shard)
                count -= 1

    def leave_behind(self, actors: Iterable[Actor]) -> None:
        """See to turns of these that go on GRACE after their deadlines, whatever is done to end them: their sessions
        begin anew without them, beside. They can do nothing more to the store; what they hold is not free before they
        end."""
        before = self._world.clock.monotonic() - GRACE
        for actor in actors:
            turn = actor.turn
            if turn is not None and turn.waits_for == CODE and turn.due <= before and not turn.left_behind:
                turn.left_behind = True
                metrics.LEFT_BEHIND.inc()
                log.error(
                    "turn does not end at its deadline, going on without it",
                    agent=actor.key.agent,
                    session=actor.key.session,
                    message=turn.message_id,
                )
                self._world.spawn(self._begin_anew(actor, self._hot[actor.key][1], turn))

    def forget(self, actor: Actor) -> None:
        """It has left. Another may have taken its place."""
        if self.get(actor.key) is actor:
            del self._hot[actor.key]
            metrics.HOT_SESSIONS.dec()

    async def _begin_anew(self, actor: Actor, shard: Shard, turn: Turn) -> None:
        try:
            await actor.leave_behind(turn)
        except Fenced as fenced:
            self._world.fenced(actor.owner, fenced.epoch)
            return
        if shard.actors.get(actor.key) is actor and actor.turn is None:
            self._drop(actor, shard)
            if shard.active:
                self.find(shard, actor.key)

    def _drop(self, actor: Actor, shard: Shard) -> None:
        self.forget(actor)
        shard.actors.pop(actor.key, None)
