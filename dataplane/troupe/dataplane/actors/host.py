"""The sessions of one worker: the shards that it holds, their subscriptions, and the actors in memory."""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Container, Coroutine, Iterable
from typing import Any

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.broker.port import PREFETCH, Broker
from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.actor import Actor
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.budget import UNACKED, share
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.actors.shard import Shard
from troupe.dataplane.actors.world import Ending, World
from troupe.dataplane.state.port import Owner, StateStore
from troupe.v1 import status_pb2
from troupe.v1.status_pb2 import ShardStatus

SWEEP = 10.0
"""Seconds between looks for sessions that have been idle too long."""
FORGET = 600.0
"""Seconds between clearings of what the store need not keep."""
RETENTION = 30 * 24 * 3600.0
"""Seconds after which the state of an untouched session goes."""
AT_ONCE = 1.0
"""Seconds that `hold` waits for shards to be acquired: as a rule milliseconds, but stores and brokers can be away."""
AGAIN = 1.0
"""Seconds until a shard is acquired again that was given up over a defect."""
PUT_BACK = 1.0
"""Seconds that a stopping worker takes at most to write down the turns that it interrupts, and, however short its drain
is, to hand its shards over."""

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
        drain_timeout: float,
        handover_timeout: float | None,
        unacked_budget: int,
        ended: Callable[[Ending], None],
        dice: Callable[[], float],
    ) -> None:
        self._tasks, self._clock, self._store, self._broker = tasks, clock, store, broker
        self._idle_after, self.max_hot = idle_after, max_hot_sessions
        self._unacked_budget, self._prefetch = unacked_budget, PREFETCH
        self._shards: dict[int, Shard] = {}
        self._wanted: dict[int, Owner] = {}
        self._live: Container[str] | None = None
        self._leaving: set[Actor] = set()
        self._hot: OrderedDict[SessionKey, Actor] = OrderedDict()
        self._refused: dict[Owner, int] = {}
        self._suspects = asyncio.Lock()
        self._drain_timeout = drain_timeout
        self._drain_until: float | None = None
        self._position = (0, 0)
        self._moved = asyncio.Event()
        self._beside: set[asyncio.Task[None]] = set()
        self.world = World(
            store=store,
            broker=broker,
            hub=hub,
            clock=clock,
            worker_id=worker_id,
            behaviour=behaviour,
            spawn=self._spawn,
            fenced=self._fenced,
            defective=self._defective,
            order_timeout=order_timeout,
            handover_timeout=handover_timeout,
            is_live=lambda instance: self._live is None or instance in self._live,
            goes_on=self._goes_on,
            ended=ended,
            dice=dice,
        )

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
        drain_timeout: float = 20.0,
        handover_timeout: float | None = None,
        unacked_budget: int = UNACKED,
        ended: Callable[[Ending], None] = lambda _: None,
        dice: Callable[[], float] = random.random,
    ) -> AsyncIterator["Host"]:
        """A host that holds nothing yet; `ended` hears how each message ended. On exit it hands all shards over, gives
        running turns `drain_timeout` seconds from `drain` on, and stops; what did not end waits in the inbox. A turn
        whose shard was handed over goes on for `handover_timeout` seconds, by default as long as it may take at all."""
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
                drain_timeout=drain_timeout,
                handover_timeout=handover_timeout,
                unacked_budget=unacked_budget,
                ended=ended,
                dice=dice,
            )
            host._spawn(host._sweep())
            host._spawn(host._forget())
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
        mine = {owner.shard: owner for owner in owners}
        self._live = live
        self._wanted = {number: owner for number, owner in mine.items() if number not in revoked}
        self._refused = {owner: epoch for owner, epoch in self._refused.items() if mine.get(owner.shard) == owner}
        lost = []
        for number, shard in self._shards.items():
            if shard.releasing:
                continue
            if mine.get(number) != shard.owner:
                lost.append(shard)
            elif number in revoked:
                shard.releasing = True
                self._spawn(self._hand_over(shard))
        await asyncio.gather(*map(self._let_go, lost))
        acquiring = self._acquire_wanted()
        self._position = position
        self._note()
        if acquiring:
            await asyncio.wait(acquiring, timeout=AT_ONCE)

    def statuses(self) -> list[ShardStatus]:
        """The shards held, and those that the store refuses, by number."""
        refused = [
            ShardStatus(
                shard=owner.shard, epoch=owner.epoch, state=status_pb2.SHARD_STATE_REFUSED, store_epoch=store_epoch
            )
            for owner, store_epoch in self._refused.items()
        ]
        held = [shard.status() for shard in self._shards.values()]
        return sorted(held + refused, key=lambda status: status.shard)

    @property
    def position(self) -> tuple[int, int]:
        """The place in order (term, version) of the placement that `statuses` follow from: a shard that was revoked in
        it and is not among them is released. (0, 0) before the first."""
        return self._position

    @property
    def held(self) -> int:
        """Shards that this worker holds, those that it is handing over included."""
        return len(self._shards)

    async def moved(self) -> None:
        """Wait for the next change of what is held or, of turns whose shards are handed over, what runs."""
        await self._moved.wait()

    def drain(self) -> None:
        """Acquire nothing more. The time that running turns have begins, unless it has before."""
        if self._drain_until is None:
            self._drain_until = asyncio.get_running_loop().time() + self._drain_timeout

    @property
    def drain_until(self) -> float:
        """When the turns' time is over, on the event loop's clock. `drain` comes first."""
        assert self._drain_until is not None, "drain comes first"
        return self._drain_until

    async def release(self) -> None:
        """Hand over every shard that is not being handed over yet; returns when none is held. `drain` comes first."""
        for shard in self._shards.values():
            if not shard.releasing:
                shard.releasing = True
                self._spawn(self._hand_over(shard))
        while self._shards:
            await self._moved.wait()

    def actor(self, key: SessionKey) -> Actor | None:
        """The session's actor, if it is in memory."""
        return self._hot.get(key)

    def cancel(self, key: SessionKey, message_id: str) -> None:
        """A CANCEL was recorded for the message: tell whoever has it, in a session that was handed over too."""
        concerned = {actor for actor in self._leaving if actor.key == key}
        if (actor := self._hot.get(key)) is not None:
            concerned.add(actor)
        for each in concerned:
            each.cancel(message_id)

    @property
    def hot(self) -> int:
        """Sessions in memory."""
        return len(self._hot)

    @property
    def running(self) -> int:
        """Turns that run."""
        return sum(actor.turn is not None for actor in self._leaving.union(self._hot.values()))

    def owner(self, shard: int) -> Owner | None:
        """Under which name this worker writes the shard; None when it does not hold it."""
        held = self._shards.get(shard)
        return held.owner if held and held.active else None

    def wake(self, owner: Owner, key: SessionKey) -> Actor:
        """The session's actor, brought into memory if it is not there. The worker holds its shard as `owner`."""
        return self._shards[owner.shard].find(key)

    def revision_changed(self) -> None:
        """What waits for a target may have got it."""
        for actor in self._hot.values():
            actor.step()

    def _acquire_wanted(self) -> list[asyncio.Task[None]]:
        new = [
            owner
            for number, owner in self._wanted.items()
            if number not in self._shards and owner not in self._refused and self._drain_until is None
        ]
        if self._drain_until is None:
            self._share_out(len(self._shards) + len(new))
        for owner in new:
            self._shards[owner.shard] = Shard(owner, self.world, self._find, self._prefetch)
        return [self._spawn(self._acquire(self._shards[owner.shard])) for owner in new]

    async def _acquire(self, shard: Shard) -> None:
        await shard.acquire()
        self._note()

    def _share_out(self, shards: int) -> None:
        """The budget is for all shards together, of which there are so many now."""
        prefetch = share(self._unacked_budget, shards)
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            for shard in self._shards.values():
                self._spawn(shard.limit(prefetch))

    def _find(self, shard: Shard, key: SessionKey) -> Actor:
        actor = shard.actors.get(key)
        if actor is None:
            if key not in self._hot:
                metrics.HOT_SESSIONS.inc()
            actor = Actor(key, shard.owner, self.world, shard.gaps, self._suspects)
            shard.actors[key] = self._hot[key] = actor
            self._spawn(actor.activate())
            if len(self._hot) > self.max_hot:
                self._passivate(len(self._hot) - self.max_hot, idle_for=0.0)
        self._hot.move_to_end(key)
        return actor

    def _passivate(self, most: int, idle_for: float) -> None:
        """Let the idle sessions used longest ago leave memory."""
        before = self._clock.monotonic() - idle_for
        gone = 0
        for actor in list(self._hot.values()):
            if gone >= most:
                break
            if actor.idle and actor.used <= before:
                self._drop(actor)
                gone += 1

    def _drop(self, actor: Actor) -> None:
        actor.stop()
        self._forget_hot(actor)
        if (shard := self._shards.get(actor.owner.shard)) and shard.owner == actor.owner:
            shard.actors.pop(actor.key, None)

    def _forget_hot(self, actor: Actor) -> None:
        """Another may have taken its place."""
        if self._hot.get(actor.key) is actor:
            del self._hot[actor.key]
            metrics.HOT_SESSIONS.dec()

    def _fenced(self, owner: Owner, epoch: int) -> None:
        """Only what was opened under the refused epoch is closed: this process may hold the shard under a newer one."""
        metrics.FENCED.inc()
        shard = self._shards.get(owner.shard)
        if shard is not None and shard.owner == owner and not shard.lost:
            log.warning("shard lost to another owner", shard=owner.shard, epoch=owner.epoch, newer_epoch=epoch)
            self._refused[owner] = epoch
            if not shard.releasing:
                self._spawn(self._lose(shard))

    async def _lose(self, shard: Shard) -> None:
        await self._let_go(shard)
        # Whoever follows a message of it hears no more of it here.
        self.world.hub.stir()

    def _defective(self, owner: Owner) -> None:
        """Start the shard anew: what was delivered comes again, through the inbox, where its starts are counted."""
        metrics.DEFECTS.inc()
        shard = self._shards.get(owner.shard)
        if shard is not None and shard.owner == owner and not (shard.lost or shard.releasing):
            self._spawn(self._restart(shard))

    async def _restart(self, shard: Shard) -> None:
        await self._let_go(shard)
        await self._clock.sleep(AGAIN)
        self._acquire_wanted()

    async def _let_go(self, shard: Shard) -> None:
        """Stop at once: nothing is acked, nothing is written."""
        shard.abandon()
        self._forget_shard(shard, shard.actors.values())
        await shard.close()

    def _forget_shard(self, shard: Shard, actors: Iterable[Actor]) -> None:
        if self._shards.get(shard.owner.shard) is shard:
            del self._shards[shard.owner.shard]
        for actor in actors:
            self._forget_hot(actor)
        self._note()

    async def _hand_over(self, shard: Shard) -> None:
        """Release the shard, and take it again where that is wanted by then. Turns that run go on."""
        leaving = await shard.release()
        self._leaving.update(leaving)
        self._forget_shard(shard, [actor for actor in shard.actors.values() if actor not in leaving])
        for actor in leaving:
            self._spawn(self._see_off(actor))
        self._acquire_wanted()

    async def _see_off(self, actor: Actor) -> None:
        """Let the turn come to its end under its mark. One that takes too long is put back: the new owner need not
        wait for what is not going to end."""
        timeout = self.world.handover_timeout
        try:
            async with asyncio.timeout(timeout):
                await actor.rested.wait()
        except TimeoutError:
            try:
                async with asyncio.timeout(PUT_BACK):
                    await actor.put_back()
            except (TroupeError, TimeoutError) as error:
                log.info("turn not put back", session=str(actor.key), error=str(error))
        finally:
            self._leaving.discard(actor)
            actor.stop()
            self._forget_hot(actor)
            self._note()

    def _goes_on(self, key: SessionKey, number: Number) -> bool:
        return any(
            actor.key == key and actor.turn is not None and actor.turn.number == number for actor in self._leaving
        )

    async def _stop(self) -> None:
        self.drain()
        shards = [shard for shard in self._shards.values() if not shard.releasing]
        for shard in shards:
            shard.releasing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._drain_timeout, PUT_BACK)):
                await asyncio.gather(*map(self._hand_over, shards))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self.drain_until):
                for actor in list(self._leaving):
                    await actor.rested.wait()
        interrupted = [*self._leaving, *(actor for shard in self._shards.values() for actor in shard.actors.values())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PUT_BACK):
                await asyncio.gather(*(actor.put_back() for actor in interrupted), return_exceptions=True)
        for shard in list(self._shards.values()):
            await self._let_go(shard)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP)
            self._passivate(len(self._hot), self._idle_after)
            metrics.INBOX_MESSAGES.set(sum(actor.backlog for actor in self._hot.values()))
            for shard in list(self._shards.values()):
                await shard.sweep()

    async def _forget(self) -> None:
        while True:
            await self._clock.sleep(FORGET)
            now = self._clock.now()
            try:
                await self._store.forget(now, now - RETENTION)
            except Exception as error:
                log.warning("store not cleared, trying again later", error=str(error))

    def _note(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(self._guarded(work))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        # One that is cancelled before it began leaves its work unawaited.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A defect in the work for one session must not take the others with it."""
        try:
            await work
        except Exception:
            log.exception("work beside a turn failed: a defect of the runtime")
            metrics.DEFECTS.inc()
