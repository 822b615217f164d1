"""One shard that this worker holds: its subscription, its sessions in memory, and how it is handed over."""

import asyncio
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey, mailbox
from troupe.broker.envelope import Undecodable, decode
from troupe.broker.port import DeadLetter, Delivery, Subscription
from troupe.chassis import fault_points
from troupe.chassis.ids import uuid7
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.actor import Actor
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.letters import POOL
from troupe.dataplane.actors.progress import BROKER, STORE, HeldUp, Progress
from troupe.dataplane.actors.schedule import Schedule
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.session import Owner
from troupe.v1 import envelope_pb2, status_pb2
from troupe.v1.status_pb2 import ShardState, ShardStatus

AGAIN: Final = 1.0
"""Seconds until a shard is acquired again that could not be."""
ACQUIRED: Final = 1.0
"""Seconds that a shard to be handed over gets to be acquired first, where that is under way."""
RELEASE: Final = 10.0
"""Seconds that a handover may take. Then the channel is closed: what is unacked comes again, to the new owner."""

log = structlog.get_logger()


class Shard:
    """Held from when it is made until it is `lost`. `find` gives the actor of a session, in memory already or not."""

    def __init__(self, owner: Owner, world: World, find: Callable[["Shard", SessionKey], Actor], prefetch: int) -> None:
        self.owner, self._world, self._find, self._prefetch = owner, world, find, prefetch
        self.gaps = GapWatch(owner, world)
        self.schedule = Schedule(owner, world, busy=self._busy, changed=self._changed, goes_on=lambda: self.active)
        self.progress = Progress()
        self.actors: dict[SessionKey, Actor] = {}
        self.subscription: Subscription | None = None
        self.lost = self.releasing = False
        self._acquiring: asyncio.Task[None] | None = None
        self._acquires = HeldUp(world.clock.monotonic(), STORE)
        self._cut: HeldUp | None = None
        self._unswept: HeldUp | None = None
        self._burying: set[asyncio.Task[None]] = set()

    def _is_wanted(self) -> bool:
        return not (self.lost or self.releasing)

    @property
    def active(self) -> bool:
        """Its sessions are this worker's to care for."""
        return self.subscription is not None and self._is_wanted()

    def held_up(self) -> HeldUp | None:
        """What of it has been held up longest, where something is: itself, while it cannot be taken or its mailbox
        not be reached, which is known only as well as this is asked often."""
        if not self._is_wanted():
            return None
        if self.subscription is None:
            return self._acquires
        if self.subscription.connected:
            self._cut = None
        elif self._cut is None:
            self._cut = HeldUp(self._world.clock.monotonic(), BROKER)
        found = (self._cut, self._unswept, *(actor.held_up() for actor in self.actors.values()))
        return min((held for held in found if held is not None), key=lambda held: held.since, default=None)

    @property
    def state(self) -> ShardState.ValueType:
        """As it is reported."""
        if self.releasing:
            return status_pb2.SHARD_STATE_RELEASING
        return status_pb2.SHARD_STATE_ACTIVE if self.subscription else status_pb2.SHARD_STATE_ACQUIRING

    def status(self) -> ShardStatus:
        return ShardStatus(
            shard=self.owner.shard,
            epoch=self.owner.epoch,
            state=self.state,
            running_sessions=sum(actor.turn is not None for actor in self.actors.values()),
            taken=self.progress.taken,
            settled=self.progress.settled,
        )

    async def limit(self, prefetch: int) -> None:
        """Hold at most so many deliveries unacked from now on."""
        self._prefetch = prefetch
        if self.subscription is not None and self._is_wanted():
            await self.subscription.limit(prefetch)

    async def acquire(self) -> None:
        """Claim and subscribe, again and again until that is done or not wanted any more; then take up the sessions
        that have something left to do."""
        self._acquiring = asyncio.current_task()
        outage = self._world.outages["shard not acquired, trying again", ""]
        while self._is_wanted():
            try:
                self._acquires = replace(self._acquires, cause=STORE)
                claimed = await self._world.store.claim(self.owner)
                fault_points.reach("claim.after")
                self._acquires = replace(self._acquires, cause=BROKER)
                prefetch = self._prefetch
                subscription = await self._world.broker.consume(mailbox(self.owner.shard), self._delivered, prefetch)
            except Fenced as fenced:
                self._world.fenced(self.owner, fenced.epoch)
                return
            except Exception as error:
                outage.failed(error, shard=self.owner.shard)
                await self._world.clock.sleep(AGAIN)
                continue
            outage.over()
            if not self._is_wanted():
                await subscription.close()
                return
            self.subscription = subscription
            for key in claimed.due:
                self.find(key)
            if self._prefetch != prefetch:
                await subscription.limit(self._prefetch)
            await self.schedule.look()
            return

    async def sweep(self) -> None:
        """Take up what has something left to do and is not in memory, or has nothing to do there: what a write left
        that was carried out late, or whose answer was lost, or of which nobody told. Then the same for the schedule."""
        if not self.active:
            return
        # Where nothing else asks the store, this is what finds out that it does not answer.
        outage = self._world.outages["shard not swept, trying again later", ""]
        self._unswept = self._unswept or HeldUp(self._world.clock.monotonic(), STORE)
        try:
            claimed = await self._world.store.claim(self.owner)
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)
            return
        except Exception as error:
            outage.failed(error, shard=self.owner.shard)
            return
        outage.over()
        self._unswept = None
        for key in claimed.due:
            if self._is_wanted() and ((actor := self.actors.get(key)) is None or actor.at_rest or actor.idle):
                self.nudge(key)
        for key in claimed.verbs:
            if self._is_wanted() and key in self.actors:
                self.nudge(key)
        await self.schedule.look()

    def find(self, key: SessionKey) -> Actor:
        """The session's actor, brought into memory if it is not there."""
        return self._find(self, key)

    def nudge(self, key: SessionKey) -> None:
        """Something was changed in the store for this session without its actor."""
        actor = self.actors.get(key)
        if actor is None:
            self.find(key)
        else:
            actor.nudge()

    def _changed(self, sessions: Sequence[SessionKey]) -> None:
        """Something took its place in these."""
        running = {key for key in sessions if (actor := self.actors.get(key)) is not None and actor.turn is not None}
        for key in sessions:
            self.nudge(key)
        if running:
            # What refused to wait for a turn has had its end beside it.
            self._world.hub.stir_messages(running.__contains__)

    def _busy(self) -> list[SessionKey]:
        return [key for key, actor in self.actors.items() if actor.turn is not None and not actor.turn.waiting]

    async def release(self) -> list[Actor]:
        """Take nothing more, write down what was delivered and what runs, ack it all, and close the subscription, so
        that nothing comes again; the actors whose turns go on under their marks. What cannot be written within RELEASE
        is given up, and comes again from the broker."""
        self.releasing = True
        end = "finished"
        fault_points.reach("handover.before")
        try:
            async with asyncio.timeout(RELEASE):
                await self._settled()
                if self.subscription is not None:
                    await self.subscription.cancel()
                fault_points.reach("handover.cancelled")
                await self._write_down()
                fault_points.reach("handover.written")
        except TimeoutError:
            end = "out of time"
        except Fenced as fenced:
            end = "refused"
            self._world.fenced(self.owner, fenced.epoch)
        except Exception:
            end = "failed"
            log.exception("shard could not be handed over: a defect of the runtime", shard=self.owner.shard)
            metrics.DEFECTS.inc()
        metrics.HANDOVERS.labels(end).inc()
        log.info("shard handed over", shard=self.owner.shard, epoch=self.owner.epoch, how=end)
        leaving = [actor for actor in self.actors.values() if actor.turn is not None and actor.turn.marked]
        self.abandon(leaving)
        await self.close()
        fault_points.reach("handover.after")
        return leaving

    def abandon(self, leaving: Container[Actor] = ()) -> None:
        """Stop at once: nothing is acked, nothing is written, and no turn goes on but those of `leaving`."""
        self.lost = True
        self.schedule.stop()
        for actor in self.actors.values():
            if actor not in leaving:
                actor.stop_async()

    async def close(self) -> None:
        """Give back what is unacked."""
        subscription, self.subscription = self.subscription, None
        if subscription is not None:
            await subscription.close()

    async def _settled(self) -> None:
        """Wait until it is subscribed or will not be: the last step of `acquire` may be under way."""
        if self._acquiring is None or self._acquiring.done():
            return
        await asyncio.wait([self._acquiring], timeout=ACQUIRED)
        self._acquiring.cancel()
        await asyncio.wait([self._acquiring])

    async def _write_down(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for actor in self.actors.values():
                    tasks.create_task(actor.hand_over())
        except ExceptionGroup as failed:
            raise (failed.subgroup(Fenced) or failed).exceptions[0] from failed
        if self._burying:
            await asyncio.wait(self._burying)

    def _delivered(self, delivery: Delivery) -> None:
        if self.lost:
            return
        self.gaps.delivered(delivery.channel)
        try:
            envelope = decode(delivery.body)
        except Undecodable as error:
            burial = self._world.spawn(self._bury(delivery, error))
            self._burying.add(burial)
            burial.add_done_callback(self._burying.discard)
            return
        if envelope.kind == envelope_pb2.ENVELOPE_KIND_PROBE:
            delivery.ack()
            self.gaps.probe_returned(envelope.id)
        else:
            fault_points.reach("delivery.taken")
            self.progress.taken += 1
            self.find(SessionKey.of(envelope.target)).deliver(delivery, envelope)

    async def _bury(self, delivery: Delivery, error: Undecodable) -> None:
        now = self._world.clock.now()
        letter = DeadLetter(
            id=uuid7(),
            body=delivery.body,
            pool=POOL,
            message_id="",
            session="",
            reason=error.reason,
            error=str(error),
            attempts=0,
            first_failed=now,
            last_failed=now,
            worker_id=self._world.worker_id,
            revision_id="",
            trace_id="",
        )
        await self._world.persist("dead letter", lambda: self._world.broker.dead_letter(letter))
        log.warning("body given up", reason=error.reason, error=str(error), bytes=len(delivery.body))
        delivery.ack()
