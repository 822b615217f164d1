"""The sessions of one worker: the shards that it holds, their subscriptions, and the actors in memory."""

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Callable, Container, Coroutine, Iterable
from typing import Any

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.port import Broker
from troupe.chassis.clock import Clock
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.actor import Actor
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.budget import UNACKED
from troupe.dataplane.actors.hot import HotSessions
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.actors.leaving import PUT_BACK, Leaving
from troupe.dataplane.actors.progress import HeldUp
from troupe.dataplane.actors.shards import Shards
from troupe.dataplane.actors.world import Ending, World
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Entry, Owner
from troupe.v1.status_pb2 import ShardState, ShardStatus

SWEEP = 10.0
"""Seconds between looks for sessions that have been idle too long."""
TEND = 1.0
"""Seconds between looks for turns that do not end, and whether memory is short."""
LEAVE = 16
"""While it is, one in so many sessions leaves at each look."""
FORGET = 600.0
"""Seconds between clearings of what the store need not keep."""

log = structlog.get_logger()


class Host:
    """See the module's text. Make one with `hosting`."""

    def __init__(
        self,
        store: StateStore,
        broker: Broker,
        hub: Hub,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        *,
        worker_id: str,
        behaviour: Callable[[SessionKey], Behaviour | None],
        order_timeout: float,
        idle_after: float,
        max_hot_sessions: int,
        memory_is_short: Callable[[], bool],
        drain_timeout: float,
        handover_timeout: float | None,
        unacked_budget: int,
        ended: Callable[[Ending], None],
        dice: Callable[[], float],
    ) -> None:
        self._tasks, self._clock, self._store = tasks, clock, store
        self._idle_after, self._memory_is_short = idle_after, memory_is_short
        self._drain_timeout = drain_timeout
        self._drain_until: float | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._leaving = Leaving(handover_timeout, self._gone)
        self.world = World(
            store=store,
            broker=broker,
            hub=hub,
            clock=clock,
            worker_id=worker_id,
            behaviour=behaviour,
            spawn=self._spawn,
            fenced=self._fenced,
            scheduled=self._scheduled,
            defective=self._defective,
            order_timeout=order_timeout,
            handover_timeout=handover_timeout,
            is_live=lambda instance: self._shards.live is None or instance in self._shards.live,
            goes_on=self._leaving.runs,
            ended=ended,
            dice=dice,
        )
        self._hot = HotSessions(self.world, max_hot_sessions)
        self._shards = Shards(self.world, self._hot, self._leaving, unacked_budget)

    @staticmethod
    @contextlib.asynccontextmanager
    async def hosting(
        store: StateStore,
        broker: Broker,
        hub: Hub,
        clock: Clock,
        *,
        worker_id: str,
        behaviour: Callable[[SessionKey], Behaviour | None],
        order_timeout: float = 30.0,
        idle_after: float = 600.0,
        max_hot_sessions: int = 10_000,
        memory_is_short: Callable[[], bool] = lambda: False,
        drain_timeout: float = 20.0,
        handover_timeout: float | None = None,
        unacked_budget: int = UNACKED,
        ended: Callable[[Ending], None] = lambda _: None,
        dice: Callable[[], float] = random.random,
    ) -> AsyncIterator["Host"]:
        """A host that holds nothing yet; `ended` hears how each message ended. On exit it hands all shards over, gives
        running turns `drain_timeout` seconds from `drain` on, and stops; what did not end waits in the inbox. A turn
        whose shard was handed over goes on for `handover_timeout` seconds, by default as long as it may take at all.
        Idle sessions leave memory after `idle_after` seconds, beyond `max_hot_sessions`, and while `memory_is_short`,
        those used longest ago first."""
        async with asyncio.TaskGroup() as tasks:
            host = Host(
                store,
                broker,
                hub,
                clock,
                tasks,
                worker_id=worker_id,
                behaviour=behaviour,
                order_timeout=order_timeout,
                idle_after=idle_after,
                max_hot_sessions=max_hot_sessions,
                memory_is_short=memory_is_short,
                drain_timeout=drain_timeout,
                handover_timeout=handover_timeout,
                unacked_budget=unacked_budget,
                ended=ended,
                dice=dice,
            )
            for chore in (host._sweep(), host._tend(), host._forget()):
                host._spawn(chore)
            try:
                yield host
            finally:
                try:
                    await host._stop()
                finally:
                    for task in host._beside:
                        task.cancel()

    async def hold(
        self,
        owners: Iterable[Owner],
        revoked: Container[int] = (),
        live: Container[str] | None = None,
        position: tuple[int, int] = (0, 0),
    ) -> None:
        """Hold exactly these shards: hand over those that are `revoked`, beside; let go of others at once; claim and
        subscribe to the new ones. What cannot be acquired within AT_ONCE is tried on beside, until it is or is not
        wanted any more. A host that drains acquires none. `live` are the processes that may still run turns; None:
        nobody knows. `position` is what `position` says from when this has taken effect."""
        await self._shards.hold(owners, revoked, live, position)

    def statuses(self) -> list[ShardStatus]:
        """The shards held, and those that the store refuses, by number."""
        return self._shards.statuses()

    def states(self) -> list[tuple[Owner, ShardState.ValueType]]:
        """The states of the same, in no order: all of `statuses` that changes with what is held."""
        return self._shards.states()

    def held_up(self) -> dict[int, HeldUp]:
        """What has been held up longest in each shard where something is, by number. To be asked every second or so: it
        looks at every session in memory."""
        return self._shards.held_up()

    @property
    def position(self) -> tuple[int, int]:
        """The place in order (term, version) of the placement that `statuses` follow from: a shard that was revoked in
        it and is not among them is released. (0, 0) before the first."""
        return self._shards.position

    @property
    def held(self) -> int:
        """Shards that this worker holds, those that it is handing over included."""
        return len(self._shards)

    async def moved(self) -> None:
        """Wait for the next change of what is held or, of turns whose shards are handed over, what runs."""
        await self._shards.moved()

    def drain(self) -> None:
        """Acquire nothing more. The time that running turns have begins, unless it has before."""
        self._shards.closed = True
        if self._drain_until is None:
            self._drain_until = asyncio.get_running_loop().time() + self._drain_timeout

    @property
    def drain_until(self) -> float:
        """When the turns' time is over, on the event loop's clock. `drain` comes first."""
        assert self._drain_until is not None, "drain comes first"
        return self._drain_until

    async def release(self) -> None:
        """Hand over every shard that is not being handed over yet; returns when none is held. `drain` comes first."""
        await self._shards.release()

    def actor(self, key: SessionKey) -> Actor | None:
        """The session's actor, if it is in memory."""
        return self._hot.get(key)

    def nudge(self, shard: int, key: SessionKey) -> None:
        """Something was recorded for the session beside its mailbox, a verb or the end of a promise: whoever has it
        here obeys, its turn that goes on after its shard was handed over too. Where this worker holds its shard, it is
        brought into memory for that."""
        for actor in self._leaving:
            if actor.key == key:
                actor.nudge()
        if (held := self._shards.get(shard)) is not None:
            held.nudge(key)
            # What was scheduled may have been settled: then its number is due.
            held.schedule.expect(self._clock.now())

    def turns(self, shard: int) -> list[tuple[SessionKey, Entry]]:
        """The turns that run in the shard's sessions here, each as it stands, or would stand, in its inbox."""
        held = self._shards.get(shard)
        actors = held.actors.values() if held else ()
        running = [(actor.key, actor.running) for actor in actors if actor.running is not None]
        return [(key, turn.entry) for key, batch in running for turn in batch.all]

    @property
    def max_hot(self) -> int:
        """Sessions in memory at most."""
        return self._hot.most

    @property
    def hot(self) -> int:
        """Sessions in memory."""
        return len(self._hot)

    @property
    def running(self) -> int:
        """Turns that run."""
        return sum(actor.turn is not None for actor in {*self._leaving, *self._hot})

    def whose(self, task: str) -> dict[str, str]:
        """Agent, session and message that the task of this name works for; nothing where it is not known. From any
        thread."""
        message_id = task.partition(" of ")[2] if task.startswith("tool ") else task
        try:
            actors = [*self._hot, *self._leaving]
        except RuntimeError:  # they change just now
            return {}
        return next(
            (
                {"agent": actor.key.agent, "session": actor.key.session, "message": message_id}
                for actor in actors
                if (turn := actor.turn) is not None and turn.message_id == message_id
            ),
            {},
        )

    def owner(self, shard: int) -> Owner | None:
        """Under which name this worker writes the shard; None when it does not hold it."""
        return self._shards.owner(shard)

    def wake(self, owner: Owner, key: SessionKey) -> Actor:
        """The session's actor, brought into memory if it is not there. The worker holds its shard as `owner`."""
        return self._shards.find(owner, key)

    def revision_changed(self) -> None:
        """What waits for a target may have got it."""
        for actor in self._hot:
            actor.step()

    def _fenced(self, owner: Owner, epoch: int) -> None:
        self._shards.fenced(owner, epoch)

    def _scheduled(self, owner: Owner, due: float) -> None:
        self._shards.scheduled(owner, due)

    def _defective(self, owner: Owner) -> None:
        self._shards.defective(owner)

    def _gone(self, actor: Actor) -> None:
        self._hot.forget(actor)
        self._shards.note()

    async def _stop(self) -> None:
        self.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._drain_timeout, PUT_BACK)):
                await self._shards.release()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self.drain_until):
                for actor in self._leaving:
                    await actor.rested.wait()
        interrupted = [*self._leaving, *self._shards.actors()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PUT_BACK):
                await asyncio.gather(*(actor.put_back() for actor in interrupted), return_exceptions=True)
        await self._shards.let_go()

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP)
            self._hot.passivate(len(self._hot), self._idle_after)
            metrics.INBOX_MESSAGES.set(sum(actor.backlog for actor in self._hot))
            await self._shards.sweep()

    async def _tend(self) -> None:
        while True:
            await self._clock.sleep(TEND)
            self._hot.leave_behind(self._shards.actors())
            if self._memory_is_short():
                # Memory that is given back shows late, so that few leave at a time.
                self._hot.passivate(-(-len(self._hot) // LEAVE))

    async def _forget(self) -> None:
        while True:
            await self._clock.sleep(FORGET)
            now = self._clock.now()
            try:
                await self._store.forget(now)
            except Exception as error:
                log.warning("store not cleared, trying again later", error=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(self._guarded(work))
        self._beside.add(task)
        task.add_done_callback(functools.partial(self._over, work))
        return task

    def _over(self, work: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        # One that is cancelled before it began leaves its work unawaited.
        work.close()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A defect in the work for one session must not take the others with it."""
        try:
            await work
        except Exception:
            log.exception("work beside a turn failed: a defect of the runtime")
            metrics.DEFECTS.inc()
