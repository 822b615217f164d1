"""The sessions of one worker: the shards that it holds, their subscriptions, and the actors in memory."""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from troupe.broker.addressing import SessionKey, mailbox
from troupe.broker.envelope import Undecodable, decode
from troupe.broker.port import Broker, DeadLetter, Delivery, Subscription
from troupe.chassis.clock import Clock
from troupe.chassis.errors import ResourceExhausted
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.actor import Actor
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.actors.settle import POOL
from troupe.dataplane.actors.world import Ending, World
from troupe.dataplane.state.port import Fenced, Owner, StateStore
from troupe.v1 import envelope_pb2, status_pb2
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
"""Seconds until a shard is acquired again that could not be, or was given up over a defect."""

PUT_BACK = 1.0
"""Seconds that a stopping worker takes at most to write down the turns that it interrupts."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Shard:
    """One shard that this worker holds."""

    owner: Owner
    gaps: GapWatch
    actors: dict[SessionKey, Actor] = field(default_factory=dict)
    subscription: Subscription | None = None
    lost: bool = False
    draining: bool = False

    def is_wanted(self) -> bool:
        """It is to be acquired, and its messages taken."""
        return not (self.lost or self.draining)

    def status(self) -> ShardStatus:
        return ShardStatus(
            shard=self.owner.shard,
            epoch=self.owner.epoch,
            state=status_pb2.SHARD_STATE_ACTIVE if self.subscription else status_pb2.SHARD_STATE_ACQUIRING,
            running_sessions=sum(actor.turn is not None for actor in self.actors.values()),
        )


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
        ended: Callable[[Ending], None],
        dice: Callable[[], float],
    ) -> None:
        self._tasks, self._clock, self._store, self._broker = tasks, clock, store, broker
        self._idle_after, self.max_hot = idle_after, max_hot_sessions
        self._shards: dict[int, Shard] = {}
        self._hot: OrderedDict[SessionKey, Actor] = OrderedDict()
        self._suspects = asyncio.Lock()
        self._draining = False
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
        ended: Callable[[Ending], None] = lambda _: None,
        dice: Callable[[], float] = random.random,
    ) -> AsyncIterator["Host"]:
        """A host that holds nothing yet; `ended` hears how each message ended. On exit it takes nothing new, gives
        running turns `drain_timeout` seconds, and stops; what did not end stays with the broker or in the inbox."""
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
                ended=ended,
                dice=dice,
            )
            host._spawn(host._sweep())
            host._spawn(host._forget())
            try:
                yield host
            finally:
                try:
                    await host._stop(drain_timeout)
                finally:
                    for task in host._beside:
                        task.cancel()

    async def hold(self, owners: Iterable[Owner]) -> None:
        """Hold exactly these shards: let go of the others at once, claim and subscribe to the new ones. What cannot
        be acquired within AT_ONCE is tried on beside, until it is or is not wanted any more. A host that stops
        acquires none."""
        wanted = {owner.shard: owner for owner in owners}
        for number, shard in list(self._shards.items()):
            if wanted.get(number) != shard.owner:
                await self._let_go(shard)
        new = [owner for number, owner in wanted.items() if number not in self._shards and not self._draining]
        for owner in new:
            self._shards[owner.shard] = Shard(owner, GapWatch(owner, self.world))
        acquiring = [self._spawn(self._acquire(self._shards[owner.shard])) for owner in new]
        if acquiring:
            await asyncio.wait(acquiring, timeout=AT_ONCE)

    def statuses(self) -> list[ShardStatus]:
        """The shards held, by number."""
        return [self._shards[number].status() for number in sorted(self._shards)]

    def actor(self, key: SessionKey) -> Actor | None:
        """The session's actor, if it is in memory."""
        return self._hot.get(key)

    @property
    def hot(self) -> int:
        """Sessions in memory."""
        return len(self._hot)

    @property
    def running(self) -> int:
        """Turns that run."""
        return sum(actor.turn is not None for actor in self._hot.values())

    def owner(self, shard: int) -> Owner | None:
        """Under which name this worker writes the shard; None when it does not hold it."""
        held = self._shards.get(shard)
        return held.owner if held and held.subscription else None

    def wake(self, owner: Owner, key: SessionKey) -> Actor:
        """The session's actor, brought into memory if it is not there. The worker holds its shard as `owner`."""
        return self._find(self._shards[owner.shard], key)

    def revision_changed(self) -> None:
        """What waits for a target may have got it."""
        for actor in self._hot.values():
            actor.step()

    async def _acquire(self, shard: Shard) -> None:
        owner = shard.owner
        while shard.is_wanted():
            try:
                waiting = await self._store.claim(owner)
                subscription = await self._broker.consume(
                    mailbox(owner.shard), lambda delivery: self._delivered(shard, delivery)
                )
            except Fenced as fenced:
                self._fenced(owner, fenced.epoch)
                return
            except Exception as error:
                log.warning("shard not acquired, trying again", shard=owner.shard, error=str(error))
                await self._clock.sleep(AGAIN)
                continue
            shard.subscription = subscription
            if not shard.is_wanted():
                await subscription.close()
                return
            for key in waiting:
                self._find(shard, key)
            return

    def _delivered(self, shard: Shard, delivery: Delivery) -> None:
        if not shard.is_wanted():
            return
        shard.gaps.delivered()
        try:
            envelope = decode(delivery.body)
        except Undecodable as error:
            self._spawn(self._bury(delivery, error))
            return
        if envelope.kind == envelope_pb2.ENVELOPE_KIND_PROBE:
            delivery.ack()
            shard.gaps.probe_returned(envelope.id)
        else:
            self._find(shard, SessionKey.of(envelope.target)).deliver(delivery, envelope)

    async def _bury(self, delivery: Delivery, error: Undecodable) -> None:
        now = self._clock.now()
        letter = DeadLetter(
            body=delivery.body,
            pool=POOL,
            message_id="",
            session="",
            reason=error.reason,
            error=str(error),
            attempts=0,
            first_failed=now,
            last_failed=now,
            worker_id=self.world.worker_id,
            revision_id="",
            trace_id="",
        )
        await self.world.persist("dead letter", lambda: self._broker.dead_letter(letter))
        log.warning("body given up", reason=error.reason, error=str(error), bytes=len(delivery.body))
        delivery.ack()

    def _find(self, shard: Shard, key: SessionKey) -> Actor:
        actor = shard.actors.get(key)
        if actor is None:
            actor = Actor(key, shard.owner, self.world, shard.gaps, self._suspects)
            shard.actors[key] = self._hot[key] = actor
            metrics.HOT_SESSIONS.inc()
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
        if self._hot.pop(actor.key, None):
            metrics.HOT_SESSIONS.dec()
        if shard := self._shards.get(actor.owner.shard):
            shard.actors.pop(actor.key, None)

    def _fenced(self, owner: Owner, epoch: int) -> None:
        metrics.FENCED.inc()
        shard = self._shards.get(owner.shard)
        if shard is not None and shard.owner == owner and not shard.lost:
            log.warning("shard lost to another owner", shard=owner.shard, epoch=owner.epoch, newer_epoch=epoch)
            self._spawn(self._let_go(shard))

    def _defective(self, owner: Owner) -> None:
        """Start the shard anew: what was delivered comes again, through the inbox, where its starts are counted."""
        metrics.DEFECTS.inc()
        shard = self._shards.get(owner.shard)
        if shard is not None and shard.owner == owner and not shard.lost:
            self._spawn(self._restart(shard))

    async def _restart(self, shard: Shard) -> None:
        await self._let_go(shard)
        await self._clock.sleep(AGAIN)
        if shard.owner.shard not in self._shards and not self._draining:
            again = Shard(shard.owner, GapWatch(shard.owner, self.world))
            self._shards[shard.owner.shard] = again
            await self._acquire(again)

    async def _let_go(self, shard: Shard) -> None:
        """Stop at once: nothing is acked, nothing is written."""
        shard.lost = True
        if self._shards.get(shard.owner.shard) is shard:
            del self._shards[shard.owner.shard]
        for actor in list(shard.actors.values()):
            actor.stop()
            if self._hot.pop(actor.key, None):
                metrics.HOT_SESSIONS.dec()
            if actor.turn is not None:
                actor.turn.abandon()
        if shard.subscription is not None:
            await shard.subscription.close()

    async def _stop(self, drain_timeout: float) -> None:
        self._draining = True
        shards = list(self._shards.values())
        for shard in shards:
            shard.draining = True
            if shard.subscription is not None:
                await shard.subscription.cancel()
            for actor in shard.actors.values():
                actor.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_timeout):
                for shard in shards:
                    for actor in list(shard.actors.values()):
                        await actor.rested.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PUT_BACK):
                await asyncio.gather(
                    *(actor.put_back() for shard in shards for actor in shard.actors.values()), return_exceptions=True
                )
        for shard in shards:
            await self._let_go(shard)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP)
            self._passivate(len(self._hot), self._idle_after)

    async def _forget(self) -> None:
        while True:
            await self._clock.sleep(FORGET)
            now = self._clock.now()
            try:
                await self._store.forget(now, now - RETENTION)
            except Exception as error:
                log.warning("store not cleared, trying again later", error=str(error))

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


def check_busy(actor: Actor | None, limit: int) -> None:
    """Raise ResourceExhausted where the session has as many messages waiting as it may."""
    if actor is not None and actor.backlog >= limit:
        raise ResourceExhausted(
            "SESSION_FULL", f"{limit} messages wait for session {actor.key}; try later", retry_after=1.0
        )
