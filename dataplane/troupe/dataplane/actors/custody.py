"""Store and memory of one session, changed together: what its owner takes up, writes down, marks, takes over from
another, and gives up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.actors import outbox
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.handover import Predecessors
from troupe.dataplane.actors.inbox import Run
from troupe.dataplane.actors.intake import Intake
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import CancelRecorded
from troupe.dataplane.state.session import Entry, Owner

MAX_RUN: Final = 1_000
"""Numbers that are given up in one write."""


class Custody:
    """Beside the turns, which settle themselves. `turn` is the one that runs; `goes_on` says whether the session is
    still this owner's to care for; `step` lets start what may start now. What waits for the store raises Fenced."""

    def __init__(
        self,
        key: SessionKey,
        owner: Owner,
        world: World,
        gaps: GapWatch,
        *,
        turn: Callable[[], Turn | None],
        goes_on: Callable[[], bool],
        step: Callable[[], None],
    ) -> None:
        self.key = key
        self.memory = SessionMemory()
        self.intake = Intake(key, owner, world, self.memory, turn, self.outdated)
        self.stale = True
        """The store may have something else than memory: nothing starts before it is loaded."""
        self.owes = False
        """What it sent before it was loaded is to be flushed before a turn runs."""
        self._changes = 0
        self._owner, self._world, self._gaps = owner, world, gaps
        self._turn, self._goes_on, self._step = turn, goes_on, step
        self._predecessors = Predecessors(key, owner, world)
        # Held while store and memory change together, but for turns: a load in between would miss half of it.
        self._changing = asyncio.Lock()

    @property
    def changing(self) -> bool:
        """Store and memory are just being brought into line."""
        return self._changing.locked()

    def outdated(self) -> None:
        """The store has something else than memory, or than what is just being loaded."""
        self.stale = True
        self._changes += 1

    async def load(self) -> None:
        """Take up what the store has. What is outdated meanwhile stays so."""
        async with self._changing:
            changes = self._changes
            self.memory.take_up(await self._world.persist("load", lambda: self._world.store.load(self.key)))
            self.stale = changes != self._changes
            self.intake.tell_rejected(self.memory.inbox)
            self.owes = bool(self.memory.outbox)
            if self.memory.inbox.gaps():
                self._gaps.watch(self)

    @contextlib.asynccontextmanager
    async def rewritten(self) -> AsyncIterator[None]:
        """Inside, all that was delivered before stands in the store, nothing is added, and the caller may change
        what is there while no turn runs. Afterwards the session is read anew."""
        async with self._changing:
            await self._place(self._world.clock.monotonic())
            self.stale = True
            yield
        await self.load()

    async def place_all(self) -> None:
        """Return once all that was delivered stands in the store, or has started."""
        async with self._changing:
            await self._place(self._world.clock.monotonic())

    async def place_due(self) -> None:
        """Write what has waited long enough to the inbox."""
        async with self._changing:
            await self._place(self.intake.arrivals.due() or 0.0)

    async def mark(self, turn: Turn) -> None:
        """A turn that takes long: its message waits in the store from now on, under the owner's mark, and its delivery
        is acked."""
        async with self._changing:
            if turn is self._turn() and not turn.waiting:
                await self.intake.write_down(turn)

    async def leave(self, turn: Turn | None) -> None:
        """Return once all that was delivered stands in the store, and the message of the turn, where it runs on, does
        so under the owner's mark."""
        async with self._changing:
            await self._place(self._world.clock.monotonic())
            if turn is not None and turn is self._turn() and not turn.marked:
                await self.intake.write_down(turn)

    async def lay_to_rest(self, entry: Entry) -> None:
        """The message that comes next is suspended: nothing is to take up the session before that is over."""
        async with self._changing:
            if self.stale:
                return
            store = self._world.store
            resting = replace(entry, starts=0)
            try:
                rests = await self._world.persist("rest", lambda: store.suspend(self._owner, self.key, resting, b""))
            except CancelRecorded:
                rests = False
            if rests:
                self.memory.rest(resting)
            else:
                self.outdated()

    async def heed(self) -> None:
        """Learn which verbs are recorded, in the middle of a turn: the rest is read anew once that is over."""
        self.outdated()
        turn = self._turn()
        verbs = await self._world.persist("verbs", lambda: self._world.store.verbs(self.key))
        if turn is self._turn():
            self.memory.verbs = verbs

    async def take_over(self, entry: Entry) -> None:
        """Return once the message under another owner's mark has come to its end, or is this owner's, or the session is
        not."""
        mark = entry.running
        over = await self._predecessors.outlast(entry, self._goes_on)
        async with self._changing:
            if over and mark is not None:
                store = self._world.store
                taken = await self._world.persist(
                    "take-over", lambda: store.take_over(self._owner, self.key, entry.number, mark)
                )
                if taken:
                    self.memory.put_first(replace(entry, running=None, starts=max(1, entry.starts)))
                    return
            self.stale = True
        # It may have come to its end under the other's name: whoever follows it here finds that in the store.
        with self._world.hub.log(self.key, entry.message_id) as message_log:
            message_log.stir()

    async def flush(self) -> None:
        """See `outbox.flush`."""
        await outbox.flush(self._world, self._owner, self.memory, self.key, goes_on=self._goes_on)
        self.owes = False

    def gaps(self) -> list[Run]:
        """See `troupe.dataplane.actors.gap.Waiting`."""
        if not self._goes_on():
            return []
        runs, turn = self.memory.inbox.gaps(), self._turn()
        return [run for run in runs if turn is None or Number(run.stream, run.first) != turn.number]

    async def pass_over(self, run: Run) -> int:
        """See `troupe.dataplane.actors.gap.Waiting`."""
        passed = 0
        async with self._changing:
            while not self.stale and (missing := self._missing(run)) is not None:
                first, count = Number(missing.stream, missing.first), min(MAX_RUN, len(missing))
                if await self._given_up(first, count):
                    self.memory.pass_over(first, count)
                    passed += count
                else:
                    self.stale = True
        return passed

    def step(self) -> None:
        """See `troupe.dataplane.actors.gap.Waiting`."""
        self._step()

    async def _place(self, until: float) -> None:
        if await self.intake.place(until):
            self._gaps.watch(self)

    def _missing(self, run: Run) -> Run | None:
        return next((found for gap in self.gaps() if (found := gap.within(run)) is not None), None)

    async def _given_up(self, first: Number, count: int) -> bool:
        store, now = self._world.store, self._world.clock.now()
        return await self._world.persist("gap", lambda: store.pass_over(self._owner, self.key, first, count, now))
