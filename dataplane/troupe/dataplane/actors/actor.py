"""One session in memory: what has arrived, what waits, and the one turn that runs.

A delivery whose turn it is starts at once and stays unacked while it runs: the fast path, without further I/O. What
cannot start soon (`patience.py`) is written to the session's inbox and acked, so that it does not stand in the way of
other sessions. What the session has sent and no broker has confirmed goes out beside the turns, and before the first
one of a session that was just loaded. All methods that are not `async` run on the event loop without a pause.
"""

import asyncio
import contextlib
import functools
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Place
from troupe.broker.port import Delivery
from troupe.chassis import fault_points
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.alarm import Alarm
from troupe.dataplane.actors.arrivals import Arrival
from troupe.dataplane.actors.custody import Custody
from troupe.dataplane.actors.entry import entry_of
from troupe.dataplane.actors.errands import Errand, Errands
from troupe.dataplane.actors.failures import Failures
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.inbox import Empty, Gap, Held, Start, Suspended, Wait
from troupe.dataplane.actors.lifecycle import FINAL, ActorEvent, ActorState, after
from troupe.dataplane.actors.progress import BROKER, STORE, HeldUp, Progress
from troupe.dataplane.actors.runner import Afterwards, TurnRunner
from troupe.dataplane.actors.turn import Turn, waiting_turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.session import Entry, Owner
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.turn_pb2 import LedgerCause

RELOAD_DELAY = (1.0, 60.0)
"""Seconds between two tries to load a session that cannot be loaded: at first, and at most."""

log = structlog.get_logger()


class Actor:
    """See the module's text. `suspects` is held while a message runs that was started before without an end: one at
    a time on this worker."""

    def __init__(
        self,
        key: SessionKey,
        owner: Owner,
        world: World,
        gaps: GapWatch,
        progress: Progress,
        suspects: asyncio.Lock,
    ) -> None:
        self.key, self.owner = key, owner
        self.life = ActorState.ACTIVATING
        self.turn: Turn | None = None
        self.used = world.clock.monotonic()
        self.rested = asyncio.Event()
        """Set while no turn runs."""
        self.rested.set()
        self.failures = Failures()
        """Of attempts at turns, of loading the session, and of the runtime."""
        self._world, self._gaps, self._suspects = world, gaps, suspects
        self._custody = Custody(
            key, owner, world, gaps, turn=lambda: self.turn, goes_on=lambda: self._goes_on, step=self.step
        )
        self._memory, self._intake = self._custody.memory, self._custody.intake
        self._runner = TurnRunner(key, owner, world, self._memory, self.failures, progress)
        # Whoever makes an actor activates it: a second load beside the first would end in the middle of a turn.
        self._loading = True
        self._behind: HeldUp | None = None
        self._held = 0
        self._alarm = Alarm(self._wake)
        self._errands = Errands(world, owner, self._defective, self.step)
        self._left: asyncio.Event | None = None

    @property
    def idle(self) -> bool:
        """Nothing runs, arrives or is to be sent, and what waits is suspended, if anything does: it may leave
        memory."""
        has = self._intake.arrivals or self._memory.outbox or Errand.FLUSH in self._errands
        changes = self._held or self._custody.stale or self._custody.changing
        return not (has or changes) and (self.at_rest or (self.life is ActorState.IDLE and not self._memory.inbox))

    @property
    def at_rest(self) -> bool:
        """What comes next in it is suspended, and the store knows that nothing of it is to be taken up before."""
        return self.life is ActorState.WAITING and self._memory.at_rest

    @property
    def _goes_on(self) -> bool:
        """The session is this owner's to care for."""
        return self.life not in FINAL and self.life is not ActorState.DRAINING

    @property
    def _is_ready(self) -> bool:
        """It is loaded, and nothing has to be done before a turn."""
        before = self._custody.owes or Errand.TAKE_OVER in self._errands
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
                with self._is_behind(STORE):
                    await self._custody.load()
            except Exception as error:
                metrics.DEFECTS.inc()
                self.failures.put(error)
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

    def nudge(self) -> None:
        """Something was changed in the store without the actor: a verb was recorded, a promise settled, a message
        placed."""
        if self.turn is not None:
            self._errands.beside(self._heed())
        elif self._goes_on:
            self._custody.outdated()
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
            for each in reversed(turn.all):
                entry = replace(each.entry, starts=0, attempts=each.attempts, running=None, not_before=0.0)
                await self._world.store.retry(self.owner, self.key, entry, each.envelope.SerializeToString())

    def stop_async(self) -> None:
        """Leave memory, and stop the turn that runs, without a trace: what is unacked comes again. Returns at once; to
        stop again does nothing."""
        self._leave(ActorEvent.STOP)
        if self.turn is not None:
            self.turn.abandon()

    async def leave_behind(self, turn: Turn) -> None:
        """Leave memory without the turn, which is past its deadline, and which nothing ends. Its message stands in the
        inbox, as one that was started, for whoever takes the session up. Raises Fenced."""
        await self._custody.mark(turn)
        while self._intake.arrivals:
            await self._custody.place_all()
        if turn is self.turn:
            self.stop_async()
            self._over(turn)

    async def stop(self) -> None:
        """The same, and return once it has `stopped`. Not for its own turn to call."""
        self.stop_async()
        await self.stopped()

    async def stopped(self) -> None:
        """Return once it has left memory, by a stop or a failure of the runtime, and its turn has ended."""
        if self.life not in FINAL:
            self._left = self._left or asyncio.Event()
            await self._left.wait()
        await self.rested.wait()

    def step(self) -> None:
        """Start what may start now, or see to it that the next chance is not missed."""
        if self.life in FINAL:
            return
        if self.turn is None and not self._held:
            if self._custody.stale:
                self._reload()
            elif self._is_ready:
                self._choose()
        if self._memory.outbox and not self._custody.stale and self._goes_on:
            self._errands.start(Errand.FLUSH, self._flush)
        if (due := self._intake.arrivals.due()) is not None and Errand.PLACE not in self._errands:
            self._alarm.set(due - self._world.clock.monotonic())

    def held_up(self) -> HeldUp | None:
        """Its message that has been held up longest, where one may be."""
        turn, first = self.turn, self._intake.arrivals.oldest()
        if turn is not None:
            return None if turn.queued else HeldUp(turn.due, turn.waits_for, self.key, turn.message_id)
        if self._behind is not None or first is None or self.life is not ActorState.IDLE:
            return self._behind
        return HeldUp(first.at, STORE, self.key, first.entry.message_id)

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
                behaviour = self._world.behaviour(self.key)
                self._begin(waiting_turn(entry, self._memory.batch(entry, behaviour.max_batch if behaviour else 1)))
            case Start(entry):
                self._wait(entry.placed + self._world.order_timeout - now)
            case Wait(until):
                self._wait(until - now)
            case Suspended(entry):
                self._move(ActorEvent.WAIT)
                if not self._memory.at_rest:
                    self._errands.start(Errand.REST, lambda: self._custody.lay_to_rest(entry))
            case Held(entry):
                self._move(ActorEvent.WAIT)
                # Nothing of the session starts before that message has come to its end, or is this owner's.
                self._errands.start(Errand.TAKE_OVER, lambda: self._custody.take_over(entry))
            case Gap():
                self._move(ActorEvent.WAIT)
                self._gaps.watch(self._custody)
            case Empty():
                first = self._intake.arrivals.first()
                if first is not None and self._may_start(first):
                    self._begin(self._intake.arrivals.start().turn(self._world.clock))
                else:
                    self._move(ActorEvent.REST)

    def _may_start(self, arrival: Arrival) -> bool:
        """Only what was certainly never started before may start without being counted."""
        return (
            arrival.delivery.redeliveries == 0
            and not (arrival.entry.redriven or arrival.entry.due)
            and not self._memory.is_paused(arrival.entry.message_id)
            and not self._memory.has_journal(arrival.entry.message_id)
            and self._memory.place(arrival.entry.number) is Place.NEXT
            and (arrival.entry.skip or self._world.behaviour(self.key) is not None)
        )

    def _is_known(self, entry: Entry, now: float) -> bool:
        """Its target is known, or it has waited long enough for a revision that knows it."""
        return self._world.behaviour(self.key) is not None or now >= entry.placed + self._world.order_timeout

    def _begin(self, turn: Turn) -> None:
        self.turn, turn.due = turn, self._world.clock.monotonic()
        self.rested.clear()
        self._intake.arrivals.sift(lambda arrival: not self._intake.joins(arrival))
        self._move(ActorEvent.BEGIN)
        self._world.spawn(self._run(turn))

    async def _run(self, turn: Turn) -> None:
        turn.task = asyncio.current_task()
        if turn.task is not None:
            turn.task.set_name(turn.message_id)
        try:
            if self.life in FINAL:
                return
            if turn.waiting and turn.entry.starts > 0 and not turn.entry.skip:
                turn.queued = True
                await self._suspects.acquire()
                turn.queued, turn.suspect = False, True
            await self._take(turn)
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)
        except Exception as error:
            self._defective("turn could not be settled: a defect of the runtime", error)
        finally:
            self.used = self._world.clock.monotonic()
            self._over(turn)
        if self.life is ActorState.RUNNING:
            self._move(ActorEvent.REST)
        self.step()

    def _over(self, turn: Turn) -> None:
        if turn.suspect:
            turn.suspect = False
            self._suspects.release()
        self.turn = None
        self.rested.set()
        turn.begins.set()

    async def _take(self, turn: Turn) -> None:
        if turn.called_off and turn.waiting:
            return
        turns = await self._runner.gather(turn) if turn.batch else [turn]
        if not turns:
            self._custody.outdated()
        for each in turns:
            each.task, self.turn = turn.task, each
            try:
                afterwards = await self._runner.run(each, on_long=functools.partial(self._mark, each))
            finally:
                each.begins.set()
            fault_points.reach("ack.before")
            for one in each.all:
                one.ack()
            fault_points.reach("ack.after")
            if afterwards is Afterwards.STALE:
                self._custody.outdated()
            if afterwards is Afterwards.STALE or self._memory.holds(each.number) or not self._goes_on:
                # It waits again, and those behind it do with it; or the session is another's.
                break

    def _mark(self, turn: Turn) -> None:
        self._errands.beside(self._custody.mark(turn))

    async def _heed(self) -> None:
        """Obey what was recorded for the message that runs: a PAUSE does not stop it, but its next step."""
        await self._custody.heed()
        verbs, turn = self._memory.verbs, self.turn
        for each in turn.all if turn is not None else ():
            if turn is not None and each.message_id in verbs.cancelled:
                turn.cancel(kill=each.message_id in verbs.killed)

    async def _flush(self) -> None:
        with self._is_behind(BROKER) if self._custody.owes else contextlib.nullcontext():
            await self._custody.flush()

    @contextlib.contextmanager
    def _is_behind(self, cause: LedgerCause.ValueType) -> Iterator[None]:
        """Inside, what waits waits for this alone."""
        self._behind = HeldUp(self._world.clock.monotonic(), cause, self.key)
        try:
            yield
        finally:
            self._behind = None

    def _defective(self, what: str, error: Exception) -> None:
        log.exception(what, session=str(self.key))
        self.failures.put(error)
        self._leave(ActorEvent.FAIL)
        self._world.defective(self.owner)

    def _wait(self, wait: float) -> None:
        self._move(ActorEvent.WAIT)
        self._alarm.set(wait)

    def _wake(self) -> None:
        due = self._intake.arrivals.due()
        if due is not None and due <= self._world.clock.monotonic():
            self._errands.start(Errand.PLACE, self._custody.place_due)
        self.step()

    def _move(self, event: ActorEvent) -> None:
        self.life = after(self.life, event)

    def _leave(self, event: ActorEvent) -> None:
        before = self.life
        self._move(event)
        if before in FINAL:
            return
        self._intake.arrivals.clear()
        self._alarm.cancel()
        self.failures.end()
        if self._left is not None:
            self._left.set()
