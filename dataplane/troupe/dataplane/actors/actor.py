"""One session in memory: what has arrived, what waits, and the one turn that runs.

A delivery whose turn it is starts at once and stays unacked while it runs: the fast path, without further I/O. What
cannot start within PATIENCE is written to the session's inbox and acked, so that it does not stand in the way of
other sessions. What the session has sent and no broker has confirmed goes out beside the turns, and before the first
one of a session that was just loaded. All methods that are not `async` run on the event loop without a pause.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Place
from troupe.broker.port import Delivery
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.arrivals import Arrival
from troupe.dataplane.actors.custody import Custody
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.inbox import Empty, Gap, Held, Start, Wait
from troupe.dataplane.actors.lifecycle import FINAL, ActorEvent, ActorState, after
from troupe.dataplane.actors.runner import Afterwards, TurnRunner
from troupe.dataplane.actors.turn import Turn, entry_of
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.port import Entry, Fenced, Owner
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Envelope

RELOAD_DELAY = (1.0, 60.0)
"""Seconds between two tries to load a session that cannot be loaded: at first, and at most."""

log = structlog.get_logger()


class Actor:
    """See the module's text. `suspects` is held while a message runs that was started before without an end: one at
    a time on this worker."""

    def __init__(self, key: SessionKey, owner: Owner, world: World, gaps: GapWatch, suspects: asyncio.Lock) -> None:
        self.key, self.owner = key, owner
        self.life = ActorState.ACTIVATING
        self.turn: Turn | None = None
        self.used = world.clock.monotonic()
        self.rested = asyncio.Event()
        """Set while no turn runs."""
        self.rested.set()
        self._world, self._gaps, self._suspects = world, gaps, suspects
        self._custody = Custody(
            key, owner, world, gaps, turn=lambda: self.turn, goes_on=lambda: self._goes_on, step=self.step
        )
        self._memory, self._intake = self._custody.memory, self._custody.intake
        self._runner = TurnRunner(key, owner, world, self._memory)
        # Whoever makes an actor activates it: a second load beside the first would end in the middle of a turn.
        self._loading = True
        self._held = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._placing_soon = self._taking_over = self._flushing = False

    @property
    def idle(self) -> bool:
        """Nothing runs, waits, arrives or is to be sent: it may leave memory."""
        has = self._intake.arrivals or self._memory.inbox or self._memory.outbox or self._flushing
        changes = self._held or self._custody.stale or self._custody.changing
        return self.life is ActorState.IDLE and not (has or changes)

    @property
    def _goes_on(self) -> bool:
        """The session is this owner's to care for."""
        return self.life not in FINAL and self.life is not ActorState.DRAINING

    @property
    def _is_ready(self) -> bool:
        """It is loaded, and nothing has to be done before a turn."""
        before = self._custody.owes or self._taking_over
        return self.life is not ActorState.ACTIVATING and self._goes_on and not before

    @property
    def backlog(self) -> int:
        """Places in the inbox and before it that are taken."""
        return len(self._memory.inbox) + len(self._intake.arrivals)

    @property
    def waiting(self) -> int:
        """Messages behind the one that runs."""
        arrived = len(self._intake.arrivals)
        return self._memory.inbox.live + arrived - (self.running is not None and self.running.waiting)

    @property
    def running(self) -> Turn | None:
        """The turn, where it is one that a client would call so: not the settling of a number alone."""
        return None if self.turn is None or self.turn.entry.skip else self.turn

    async def activate(self) -> None:
        """Take up what the store has, then handle messages; those that came meanwhile first. What cannot be loaded
        is tried again, ever more rarely: its messages wait in the inbox, and other sessions go on."""
        self._loading = True
        delay, longest = RELOAD_DELAY
        while self._custody.stale and self.life not in FINAL:
            try:
                await self._custody.load()
            except Exception:
                metrics.DEFECTS.inc()
                log.exception("session cannot be loaded, trying again", session=str(self.key), again_in_seconds=delay)
                self.step()
                await self._world.clock.sleep(delay)
                delay = min(longest, delay * 2)
        self._loading = False
        if self.life in FINAL:
            return
        if self.life is ActorState.ACTIVATING:
            self._move(ActorEvent.LOADED)
        self._intake.arrivals.sift(self._intake.admits)
        self.step()

    def deliver(self, delivery: Delivery, envelope: Envelope) -> None:
        """A message for this session, in the order of deliveries."""
        self.used = self._world.clock.monotonic()
        arrival = Arrival(delivery, envelope, entry_of(envelope, self._world.clock.now()), self.used)
        if self.life is ActorState.ACTIVATING or self._intake.admits(arrival):
            self._intake.arrivals.add(arrival)
            self.step()

    def cancel(self, message_id: str) -> None:
        """A CANCEL was recorded for the message."""
        self._memory.cancel(message_id)
        if self.turn is not None and self.turn.message_id == message_id:
            self.turn.cancel()
        self.step()

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Inside, no turn is started."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self.step()

    def rewritten(self) -> AbstractAsyncContextManager[None]:
        """See `Custody.rewritten`; for use while the actor is `still`."""
        return self._custody.rewritten()

    async def hand_over(self) -> None:
        """Start nothing more. Returns once nothing of the session is unacked: what had not started stands in the inbox,
        a turn that runs does so under the owner's mark, and goes on. Raises Fenced."""
        if self.life in FINAL:
            return
        self._move(ActorEvent.DRAIN)
        if (turn := self.turn) is not None:
            turn.call_off()
            await turn.begins.wait()
        await self._custody.leave(turn)
        if turn is not None and not turn.marked:
            await self.rested.wait()

    async def put_back(self) -> None:
        """The worker stops in the middle of the turn. A start that was counted is not held against its message: three
        stops must not look like a message that kills its worker. Raises what the store raises."""
        turn = self.turn
        if turn is not None and turn.waiting and turn.began:
            turn.abandon()
            entry = replace(turn.entry, starts=0, attempts=turn.attempts, running=None, not_before=0.0)
            await self._world.store.retry(self.owner, self.key, entry, turn.envelope.SerializeToString())

    def stop(self) -> None:
        """Leave memory. What is unacked comes again."""
        self._move(ActorEvent.STOP)
        self._intake.arrivals.clear()
        if self._alarm is not None:
            self._alarm.cancel()

    def step(self) -> None:
        """Start what may start now, or see to it that the next chance is not missed."""
        if self.life in FINAL:
            return
        if self.turn is None and not self._held:
            if self._custody.stale:
                self._reload()
            elif self._is_ready:
                self._choose()
        if self._memory.outbox and not (self._flushing or self._custody.stale) and self._goes_on:
            self._flushing = True
            self._world.spawn(self._beside(self._flush()))
        if (due := self._intake.arrivals.due()) is not None and not self._placing_soon:
            self._wake_in(due - self._world.clock.monotonic())

    def arrivals(self) -> list[Arrival]:
        """What was delivered and is neither started nor placed."""
        return self._intake.arrivals.all()

    def _reload(self) -> None:
        if not self._loading:
            self._loading = True
            self._world.spawn(self.activate())

    def _choose(self) -> None:
        now = self._world.clock.now()
        match self._memory.choose(now):
            case Start(entry) if entry.skip or self._is_known(entry, now):
                self._begin(Turn(Envelope(), entry, 0.0, attempt=entry.attempts, waiting=True))
            case Start(entry):
                self._wait(entry.placed + self._world.order_timeout - now)
            case Wait(until):
                self._wait(until - now)
            case Held(entry):
                self._move(ActorEvent.WAIT)
                self._taking_over = True
                self._world.spawn(self._beside(self._take_over(entry)))
            case Gap():
                self._move(ActorEvent.WAIT)
                self._gaps.watch(self._custody)
            case Empty():
                first = self._intake.arrivals.first()
                if first is not None and self._may_start(first):
                    self._begin(self._fast(self._intake.arrivals.start()))
                else:
                    self._move(ActorEvent.REST)

    def _may_start(self, arrival: Arrival) -> bool:
        """Only what was certainly never started before may start without being counted."""
        return (
            arrival.delivery.redeliveries == 0
            and not arrival.entry.redriven
            and not self._memory.has_journal(arrival.entry.message_id)
            and self._memory.place(arrival.entry.number) is Place.NEXT
            and (arrival.entry.skip or self._world.behaviour(self.key) is not None)
        )

    def _is_known(self, entry: Entry, now: float) -> bool:
        """Its target is known, or it has waited long enough for a revision that knows it."""
        return self._world.behaviour(self.key) is not None or now >= entry.placed + self._world.order_timeout

    def _fast(self, arrival: Arrival) -> Turn:
        clock = self._world.clock
        published = clock.monotonic() - max(0.0, clock.now() - arrival.delivery.published)
        turn = Turn(arrival.envelope, arrival.entry, min(published, arrival.at), deliveries=[arrival.delivery])
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_BROKER_WAIT, turn.published, arrival.at)
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_MAILBOX_WAIT, arrival.at, clock.monotonic())
        return turn

    def _begin(self, turn: Turn) -> None:
        self.turn = turn
        self.rested.clear()
        self._intake.arrivals.sift(lambda arrival: not self._intake.joins(arrival))
        self._move(ActorEvent.BEGIN)
        self._world.spawn(self._run(turn))

    async def _run(self, turn: Turn) -> None:
        if self.life in FINAL:
            return
        turn.task = asyncio.current_task()
        try:
            if turn.waiting and turn.entry.starts > 0 and not turn.entry.skip:
                turn.queued = True
                async with self._suspects:
                    turn.queued = False
                    await self._take(turn)
            else:
                await self._take(turn)
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)
        except Exception:
            self._defective("turn could not be settled: a defect of the runtime")
        finally:
            self.used = self._world.clock.monotonic()
            self.turn = None
            self.rested.set()
            turn.begins.set()
        if self.life is ActorState.RUNNING:
            self._move(ActorEvent.REST)
        self.step()

    async def _take(self, turn: Turn) -> None:
        if turn.called_off and turn.waiting:
            return
        if await self._runner.run(turn, on_long=lambda: self._world.spawn(self._mark(turn))) is Afterwards.STALE:
            self._custody.outdated()
        turn.ack()

    async def _mark(self, turn: Turn) -> None:
        """The turn takes long: its message waits in the store from now on, and its delivery is acked."""
        try:
            await self._custody.mark(turn)
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)

    async def _take_over(self, entry: Entry) -> None:
        """Nothing of the session starts before the message under a mark has come to its end, or is this owner's."""
        try:
            await self._custody.take_over(entry)
        finally:
            self._taking_over = False

    async def _flush(self) -> None:
        try:
            await self._custody.flush()
        finally:
            self._flushing = False

    async def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)
        except Exception:
            self._defective("work beside a turn failed: a defect of the runtime")
        self.step()

    def _defective(self, what: str) -> None:
        log.exception(what, session=str(self.key))
        self._move(ActorEvent.FAIL)
        self._world.defective(self.owner)

    def _wait(self, wait: float) -> None:
        self._move(ActorEvent.WAIT)
        self._wake_in(wait)

    def _wake_in(self, wait: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, wait)
        if self._alarm is not None and not self._alarm.cancelled() and loop.time() < self._alarm.when() <= at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        due = self._intake.arrivals.due()
        if due is not None and due <= self._world.clock.monotonic() and not self._placing_soon:
            self._placing_soon = True
            self._world.spawn(self._beside(self._place_due()))
        self.step()

    async def _place_due(self) -> None:
        """Write what has waited long enough to the inbox."""
        try:
            await self._custody.place_due()
        finally:
            self._placing_soon = False

    def _move(self, event: ActorEvent) -> None:
        self.life = after(self.life, event)
