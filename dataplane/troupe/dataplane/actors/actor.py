"""One session in memory: what has arrived, what waits, and the one turn that runs.

A delivery whose turn it is starts at once and stays unacked while it runs: the fast path, without further I/O. What
cannot start within PATIENCE is written to the session's inbox and acked, so that it does not stand in the way of
other sessions. All methods that are not `async` run on the event loop without a pause.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Place
from troupe.broker.port import Delivery
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.arrivals import Arrival, Arrivals, Placement
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.inbox import Empty, Gap, Start, Wait
from troupe.dataplane.actors.lifecycle import FINAL, ActorEvent, ActorState, after
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.actors.runner import Afterwards, TurnRunner
from troupe.dataplane.actors.settle import refused
from troupe.dataplane.actors.turn import Turn, entry_of
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.port import Entry, Fenced, Owner, Placed
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
        self._memory = SessionMemory()
        self._runner = TurnRunner(key, owner, world, self._memory)
        self._stale = True
        # Whoever makes an actor activates it: a second load beside the first would end in the middle of a turn.
        self._loading = True
        self._held = 0
        self._arrivals = Arrivals()
        self._alarm: asyncio.TimerHandle | None = None
        self._placing_soon = False
        # Held while store and memory change together, but for turns: a load in between would miss half of it.
        self._changing = asyncio.Lock()

    @property
    def idle(self) -> bool:
        """Nothing runs, waits or arrives: it may leave memory."""
        busy = self._arrivals or self._memory.inbox or self._stale or self._held or self._changing.locked()
        return self.life is ActorState.IDLE and not busy

    @property
    def backlog(self) -> int:
        """Places in the inbox and before it that are taken."""
        return len(self._memory.inbox) + len(self._arrivals)

    @property
    def waiting(self) -> int:
        """Messages behind the one that runs."""
        live = sum(not entry.skip for entry in self._memory.inbox)
        return live + len(self._arrivals) - (self.running is not None and self.running.waiting)

    @property
    def running(self) -> Turn | None:
        """The turn, where it is one that a client would call so: not the settling of a number alone."""
        return None if self.turn is None or self.turn.entry.skip else self.turn

    async def activate(self) -> None:
        """Take up what the store has, then handle messages; those that came meanwhile first. What cannot be loaded
        is tried again, ever more rarely: its messages wait in the inbox, and other sessions go on."""
        self._loading = True
        delay, longest = RELOAD_DELAY
        while self._stale and self.life not in FINAL:
            try:
                await self._load()
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
        self._arrivals.sift(self._admit)
        self.step()

    def deliver(self, delivery: Delivery, envelope: Envelope) -> None:
        """A message for this session, in the order of deliveries."""
        self.used = self._world.clock.monotonic()
        arrival = Arrival(delivery, envelope, entry_of(envelope, self._world.clock.now()), self.used)
        if self.life is ActorState.ACTIVATING or self._admit(arrival):
            self._arrivals.add(arrival)
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

    @contextlib.asynccontextmanager
    async def rewritten(self) -> AsyncIterator[None]:
        """Inside, all that was delivered before stands in the store, nothing is added, and the caller may change
        what is there while the actor is `still`. Afterwards the session is read anew. Raises Fenced."""
        async with self._changing:
            await self._place(self._world.clock.monotonic())
            self._stale = True
            yield
        await self._load()

    async def place_all(self) -> None:
        """Return once all that was delivered stands in the store, or has started. Raises Fenced."""
        async with self._changing:
            await self._place(self._world.clock.monotonic())

    def drain(self) -> None:
        """Start nothing more."""
        self._move(ActorEvent.DRAIN)

    async def put_back(self) -> None:
        """The worker stops in the middle of the turn. A start that was counted is not held against its message: three
        stops must not look like a message that kills its worker. Raises what the store raises."""
        turn = self.turn
        if turn is not None and turn.waiting and turn.began:
            turn.abandon()
            entry = replace(turn.entry, starts=0, attempts=turn.attempts, running=False, not_before=0.0)
            await self._world.store.retry(self.owner, self.key, entry, turn.envelope.SerializeToString())

    def stop(self) -> None:
        """Leave memory. What is unacked comes again."""
        self._move(ActorEvent.STOP)
        self._arrivals.clear()
        if self._alarm is not None:
            self._alarm.cancel()

    def step(self) -> None:
        """Start what may start now, or see to it that the next chance is not missed."""
        if self.life in FINAL:
            return
        if self.turn is None and not self._held:
            if self._stale:
                self._reload()
            elif self.life not in (ActorState.ACTIVATING, ActorState.DRAINING):
                self._choose()
        if (due := self._arrivals.due()) is not None and not self._placing_soon:
            self._wake_in(due - self._world.clock.monotonic())

    async def pass_over(self, missing: Number) -> bool:
        """Give the number up, if it is still missing. Raises Fenced."""
        async with self._changing:
            passed = self.lacks(missing) and await self._world.persist(
                "gap",
                lambda: self._world.store.pass_over(self.owner, self.key, missing, self._world.clock.now()),
            )
            if passed:
                self._memory.pass_over(missing)
            elif self.lacks(missing):
                self._stale = True
        return passed

    def lacks(self, missing: Number) -> bool:
        """Whether the session still waits for this number and it neither waits nor runs here."""
        running = self.turn is not None and self.turn.number == missing
        return self.life not in FINAL and not running and self._memory.lacks(missing)

    def arrivals(self) -> list[Arrival]:
        """What was delivered and is neither started nor placed."""
        return self._arrivals.all()

    def _admit(self, arrival: Arrival) -> bool:
        """Whether the arrival is to be kept: it may have an effect, and is not the message that runs."""
        entry, delivery = arrival.entry, arrival.delivery
        if self._memory.place(entry.number) is Place.SETTLED or self._memory.holds(entry.number):
            delivery.ack()
        elif not self._joins(arrival):
            self._refuse_other_payload(entry)
            return True
        return False

    def _joins(self, arrival: Arrival) -> bool:
        """It came again, or is a SKIP for the number that runs: it is acked with the turn."""
        if self.turn is None or self.turn.number != arrival.entry.number:
            return False
        self.turn.deliveries.append(arrival.delivery)
        return True

    def _reload(self) -> None:
        if not self._loading:
            self._loading = True
            self._world.spawn(self.activate())

    async def _load(self) -> None:
        async with self._changing:
            self._memory.take_up(await self._world.persist("load", lambda: self._world.store.load(self.key)))
            self._stale = False

    def _choose(self) -> None:
        now = self._world.clock.now()
        match self._memory.choose(now):
            case Start(entry) if entry.skip or self._is_known(entry, now):
                self._begin(Turn(Envelope(), entry, 0.0, attempt=entry.attempts, waiting=True))
            case Start(entry):
                self._wait(entry.placed + self._world.order_timeout - now)
            case Wait(until):
                self._wait(until - now)
            case Gap(missing):
                self._move(ActorEvent.WAIT)
                self._gaps.watch(self, missing)
            case Empty():
                first = self._arrivals.first()
                if first is not None and self._may_start(first):
                    self._begin(self._fast(self._arrivals.start()))
                else:
                    self._move(ActorEvent.REST)

    def _may_start(self, arrival: Arrival) -> bool:
        """Only what was certainly never started before may start without being counted."""
        return (
            arrival.delivery.redeliveries == 0
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
        self._arrivals.sift(lambda arrival: not self._joins(arrival))
        self._move(ActorEvent.BEGIN)
        self._world.spawn(self._run(turn))

    async def _run(self, turn: Turn) -> None:
        if self.life in FINAL:
            return
        turn.task = asyncio.current_task()
        try:
            if turn.waiting and turn.entry.starts > 0 and not turn.entry.skip:
                async with self._suspects:
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
        if self.life is ActorState.RUNNING:
            self._move(ActorEvent.REST)
        self.step()

    async def _take(self, turn: Turn) -> None:
        if await self._runner.run(turn, on_long=lambda: self._world.spawn(self._mark(turn))) is Afterwards.STALE:
            self._stale = True
        turn.ack()

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
        due = self._arrivals.due()
        if due is not None and due <= self._world.clock.monotonic() and not self._placing_soon:
            self._placing_soon = True
            self._world.spawn(self._place_due())
        self.step()

    async def _place_due(self) -> None:
        """Write what has waited long enough to the inbox."""
        try:
            async with self._changing:
                await self._place(self._arrivals.due() or 0.0)
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)
        except Exception:
            self._defective("messages could not be placed: a defect of the runtime")
        finally:
            self._placing_soon = False
        self.step()

    async def _place(self, until: float) -> None:
        await self._write_down_copied()
        for placement in await self._arrivals.place(until, self._world, self.owner, self.key):
            self._placed(placement)
            placement.arrival.delivery.ack()

    async def _write_down_copied(self) -> None:
        """What runs is written down before copies of it are: beside it they become SKIPs, and should its turn not end
        it must not be lost with them."""
        written: Turn | None = None
        while (turn := self.turn) is not None and turn is not written and self._is_copied(turn):
            await self._write_down(turn)
            written = turn

    def _is_copied(self, turn: Turn) -> bool:
        """It runs unplaced, and a copy of it has arrived. What has not begun may turn out to be a copy itself."""
        copies = (arrival.entry for arrival in self._arrivals.all() if arrival.entry.message_id == turn.message_id)
        return turn.began and not turn.waiting and any(not copy.skip for copy in copies)

    def _placed(self, placement: Placement) -> None:
        entry = placement.entry
        match placement.placed:
            case Placed.NEW | Placed.SKIPPED:
                self._refuse_other_payload(placement.arrival.entry)
                self._memory.wait(entry, recorded=entry.skip)
                metrics.INBOX_WRITES.inc()
            case Placed.PRESENT if not self._memory.holds(entry.number):
                self._stale = True
            case Placed.SETTLED if self.turn is None and self._memory.place(entry.number) is not Place.SETTLED:
                self._stale = True
            case Placed.PRESENT | Placed.SETTLED:
                pass

    async def _mark(self, turn: Turn) -> None:
        """The turn takes long: its message waits in the store from now on, and its delivery is acked."""
        try:
            async with self._changing:
                if turn is self.turn and not turn.waiting:
                    await self._write_down(turn)
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)

    async def _write_down(self, turn: Turn) -> None:
        entry = replace(turn.entry, running=True, attempts=turn.attempts)
        body = turn.envelope.SerializeToString()
        place = await self._world.persist("inbox", lambda: self._world.store.put(self.owner, self.key, entry, body))
        if turn is self.turn and place in (Placed.NEW, Placed.PRESENT):
            turn.waiting = True
            self._memory.put_first(entry)
            turn.ack()

    def _refuse_other_payload(self, entry: Entry) -> None:
        """The id of a message that waits, with another payload: its sender is told at once, where it is sure which of
        them is the message. It is not beside one that runs and does not wait, nor where either may be a copy: then
        the sender is told when the number is settled."""
        running = self.turn
        unplaced = running is not None and running.message_id == entry.message_id and not running.waiting
        if unplaced or self._memory.may_have_record(entry.message_id):
            return
        first = self._memory.waiting(entry.message_id)
        if first is not None and first.digest != entry.digest and not entry.skip and not first.skip:
            with self._world.hub.log(self.key, entry.message_id) as message_log:
                events = AttemptEvents(
                    message_log, self.key.ref(), entry.message_id, self.owner.epoch, 0, self._world.clock
                )
                events.failed(refused(entry.message_id), only=entry.number)

    def _move(self, event: ActorEvent) -> None:
        self.life = after(self.life, event)
