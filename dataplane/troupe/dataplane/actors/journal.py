"""The journal of one attempt, and how the attempt comes to wait."""

import asyncio
import contextlib
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Never

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import FailedPrecondition
from troupe.dataplane.actors.progress import CODE, STORE
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.control import Promise
from troupe.dataplane.state.errors import PauseRecorded
from troupe.dataplane.state.session import Owner
from troupe.v1 import promise_pb2, turn_pb2


class AttemptJournal:
    """See `troupe.dataplane.actors.behaviour.Journal`."""

    def __init__(self, world: World, owner: Owner, key: SessionKey, turn: Turn) -> None:
        self._world, self._owner, self._key, self._turn = world, owner, key, turn
        self._writes: dict[object, float] = {}
        self._due = turn.due
        self._calls = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def kept(self) -> Mapping[str, bytes]:
        return self._turn.journal

    @property
    def promises(self) -> Mapping[str, Promise]:
        return self._turn.promises

    async def keep(
        self,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        turn, store = self._turn, self._world.store
        if starts and turn.suspends:
            await self._come_to_wait()
        began = self._world.clock.monotonic()
        try:
            with self._held_up(began):
                await self._world.persist(
                    "journal",
                    lambda: store.journal(
                        self._owner,
                        self._key,
                        turn.named,
                        steps,
                        starts=starts,
                        compensates=compensates,
                        promises=promises,
                    ),
                )
        except PauseRecorded:
            turn.paused = True
            await self._come_to_wait()
        except asyncio.CancelledError:
            if not starts:
                turn.unheard.update(steps)
            raise
        turn.journal.update(steps)
        for promise in promises:
            turn.promises.setdefault(promise.id, promise)
            if promise.expires:
                self._world.scheduled(self._owner, promise.expires)
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_STATE_STORE, began, self._world.clock.monotonic())

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        self._calls += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()

    async def suspend(self, promise_ids: Collection[str]) -> Never:
        """See `troupe.dataplane.actors.behaviour.TurnContext.suspend`."""
        for promise_id in promise_ids:
            promise = self._turn.promises.get(promise_id)
            if promise is None or promise.state != promise_pb2.PROMISE_STATE_OPEN:
                raise FailedPrecondition(
                    "NOT_OPEN",
                    f"promise {promise_id} is not one that this turn made and that is open; look at it first",
                )
        if not promise_ids:
            raise FailedPrecondition("NOTHING_TO_AWAIT", "a turn waits for promises; name one at least")
        self._turn.awaits = tuple(dict.fromkeys([*self._turn.awaits, *promise_ids]))
        await self._come_to_wait()

    async def _come_to_wait(self) -> Never:
        """No call is cut off: what became of it would be unknown."""
        await self._quiet.wait()
        self._turn.suspend()
        while True:
            await asyncio.Event().wait()

    @contextlib.contextmanager
    def _held_up(self, began: float) -> Iterator[None]:
        """Inside, the turn is due since the oldest of its writes began: several may be under way."""
        turn, write = self._turn, object()
        if not self._writes:
            self._due = turn.due
        self._writes[write] = began
        turn.due, turn.waits_for = next(iter(self._writes.values())), STORE
        try:
            yield
        finally:
            del self._writes[write]
            if self._writes:
                turn.due = next(iter(self._writes.values()))
            else:
                turn.due, turn.waits_for = self._due, CODE


async def keep_unheard(world: World, owner: Owner, key: SessionKey, turn: Turn) -> None:
    """Write the results whose writing was stopped with the attempt: they are known, and nobody else knows them. Raises
    Fenced."""
    if results := turn.unheard:
        write = functools.partial(world.store.journal, owner, key, turn.named, results, starts=False)
        await world.persist("journal", write)
        turn.journal.update(results)
