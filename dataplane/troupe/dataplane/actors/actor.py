"""One session in memory: what has arrived, what waits, and the one turn that runs.

A delivery whose turn it is starts at once and stays unacked while it runs: the fast path, without further I/O. What
cannot start within PATIENCE is written to the session's inbox and acked, so that it does not stand in the way of
other sessions. All methods that are not `async` run on the event loop without a pause.
"""

import asyncio
from collections import deque
from dataclasses import replace

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Place, Position
from troupe.broker.port import Delivery
from troupe.chassis.ledger import Ledger
from troupe.chassis.wire import seconds
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.inbox import Empty, Gap, Start, Wait, choose
from troupe.dataplane.actors.lifecycle import FINAL, ActorEvent, ActorState, after
from troupe.dataplane.actors.outcome import Outcome, Skipped, attempt
from troupe.dataplane.actors.settle import Conflict, Outlook, Retrying, Settled, refused, settle
from troupe.dataplane.actors.turn import Arrival, Turn, entry_of
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.port import RECENT, Entry, Fenced, Loaded, Owner, Placed, Record, begun
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Envelope

PATIENCE = 0.05
"""Seconds that an arrival may wait for its session before it is written to the inbox."""
LONG_TURN = 60.0
"""Seconds after which a running turn's message is written to the inbox too, so that no delivery stays unacked."""

log = structlog.get_logger()


class Actor:
    """See the module's text. `suspects` is held while a message runs that was started before without an end: one at
    a time on this worker."""

    def __init__(self, key: SessionKey, owner: Owner, world: World, gaps: GapWatch, suspects: asyncio.Lock) -> None:
        self.key, self.owner = key, owner
        self.life = ActorState.ACTIVATING
        self.turn: Turn | None = None
        self.inbox: list[Entry] = []
        self.used = world.clock.monotonic()
        self._world, self._gaps, self._suspects = world, gaps, suspects
        self._loaded = Loaded()
        self._positions: dict[str, Position] = {}
        self._recent: dict[str, None] = {}
        self._recent_is_all = True
        self._cancelled: set[str] = set()
        self._early: list[tuple[Delivery, Envelope]] = []
        self._arrivals: deque[Arrival] = deque()
        self._placing: list[Arrival] = []
        self._ledgers: dict[Number, tuple[Ledger, float]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self.rested = asyncio.Event()
        """Set while no turn runs."""
        self.rested.set()

    @property
    def idle(self) -> bool:
        """Nothing runs, waits or arrives: it may leave memory."""
        return self.life is ActorState.IDLE and not (self._arrivals or self._placing or self.inbox)

    @property
    def waiting(self) -> int:
        """Messages behind the one that runs."""
        return len(self.inbox) + len(self._arrivals) + len(self._placing)

    def activate(self, loaded: Loaded) -> None:
        """Take up what the store has; from here on messages are handled."""
        self._take_up(loaded)
        self._move(ActorEvent.LOADED)
        early, self._early = self._early, []
        for delivery, envelope in early:
            self.deliver(delivery, envelope)
        self.step()

    def deliver(self, delivery: Delivery, envelope: Envelope) -> None:
        """A message for this session, in the order of deliveries."""
        self.used = self._world.clock.monotonic()
        if self.life is ActorState.ACTIVATING:
            self._early.append((delivery, envelope))
            return
        entry = entry_of(envelope, self._world.clock.now())
        number = entry.number
        if self._place(number) is Place.SETTLED or self._holds(number):
            delivery.ack()
        elif self.turn is not None and self.turn.number == number:
            self.turn.deliveries.append(delivery)
            if self.turn.waiting:
                self.turn.ack()
        else:
            self._refuse_other_payload(entry)
            self._arrivals.append(Arrival(delivery, envelope, entry, self.used))
            self.step()

    def cancel(self, message_id: str) -> None:
        """A CANCEL was recorded for the message."""
        self._cancelled.add(message_id)
        if self.turn is not None and self.turn.message_id == message_id:
            self.turn.cancel()
        self.inbox = [_cancelled(entry) if entry.message_id == message_id else entry for entry in self.inbox]
        self.step()

    def inherit(self, before: "Actor") -> None:
        """Take over what was delivered to an actor that left memory."""
        self._early.extend((arrival.delivery, arrival.envelope) for arrival in before.arrivals())

    def drain(self) -> None:
        """Start nothing more."""
        self._move(ActorEvent.DRAIN)

    def stop(self) -> None:
        """Leave memory. What is unacked comes again."""
        self._move(ActorEvent.STOP)
        if self._alarm is not None:
            self._alarm.cancel()

    def step(self) -> None:
        """Start what may start now, or see to it that the next chance is not missed."""
        if self.turn is None and self.life in (ActorState.IDLE, ActorState.WAITING):
            self._choose()
        if self.life not in FINAL and self._arrivals:
            self._wake_in(self._arrivals[0].at + PATIENCE - self._world.clock.monotonic())

    def _choose(self) -> None:
        now = self._world.clock.now()
        match choose(self.inbox, self._positions, now):
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
                if self._arrivals and not self._placing and self._may_start(self._arrivals[0]):
                    arrival = self._arrivals.popleft()
                    self._begin(self._fast(arrival))
                else:
                    self._move(ActorEvent.REST)

    def _may_start(self, arrival: Arrival) -> bool:
        """Only what was certainly never started before may start without being counted."""
        return (
            arrival.delivery.redeliveries == 0
            and self._place(arrival.entry.number) is Place.NEXT
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
        self._move(ActorEvent.BEGIN)
        self._world.spawn(self._run(turn))

    async def _run(self, turn: Turn) -> None:
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
            log.exception("turn could not be settled: a defect of the runtime", session=str(self.key))
            self._world.defective(self.owner)
        finally:
            self.used = self._world.clock.monotonic()
            self.turn = None
            self.rested.set()
        if self.life not in FINAL:
            self.step()

    async def _take(self, turn: Turn) -> None:
        """Bring one message to its end, or to its next attempt."""
        if turn.waiting and not turn.entry.skip:
            await self._begin_counted(turn)
        with self._world.hub.log(self.key, turn.message_id) as message_log:
            events = AttemptEvents(
                message_log, self.key.ref(), turn.message_id, self.owner.epoch, turn.attempt, self._world.clock
            )
            try:
                outcome = await self._outcome(turn, events)
                outlook = await settle(self._world, self.owner, self.key, turn, outcome, self._loaded, events)
            finally:
                events.close()
        await self._follow_up(turn, outlook)

    async def _begin_counted(self, turn: Turn) -> None:
        """Every start from the inbox is counted before it runs, so that what kills its worker is found out."""
        world, entry = self._world, turn.entry
        began = world.clock.monotonic()
        found = await world.persist("start", lambda: world.store.begin(self.owner, self.key, entry))
        turn.envelope, turn.journal = Envelope.FromString(found.envelope), dict(found.journal)
        now = world.clock.now()
        turn.ledger, turn.published = self._ledgers.pop(entry.number, (Ledger(), 0.0))
        if not turn.published:
            turn.published = began - max(0.0, now - seconds(turn.envelope.first_sent))
            turn.ledger.add(turn_pb2.LEDGER_CAUSE_BROKER_WAIT, turn.published, began - (now - entry.placed))
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_MAILBOX_WAIT, began - (now - entry.placed), began)
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_STATE_STORE, began, world.clock.monotonic())
        self._replace(entry.number, begun(entry))

    async def _outcome(self, turn: Turn, events: AttemptEvents) -> Outcome:
        record = await self._record(turn.message_id)
        if record is not None or turn.entry.skip:
            return Skipped(record)
        turn.cancelled = turn.cancelled or turn.message_id in self._cancelled
        long_turn = asyncio.get_running_loop().call_later(LONG_TURN, lambda: self._world.spawn(self._mark(turn)))
        try:
            return await attempt(
                self._world,
                self.owner,
                self.key,
                turn,
                state=self._loaded.state,
                history=self._loaded.history,
                events=events,
            )
        finally:
            long_turn.cancel()

    async def _follow_up(self, turn: Turn, outlook: Outlook) -> None:
        """Bring memory up to what the store now has."""
        match outlook:
            case Settled():
                self._settled(turn.number)
                if outlook.recorded:
                    self._recorded(turn.message_id)
                self._loaded = replace(
                    self._loaded,
                    version=outlook.version,
                    state=self._loaded.state if outlook.state is None else outlook.state,
                    history=self._loaded.history if outlook.delta is None else [*self._loaded.history, outlook.delta],
                )
            case Retrying(entry):
                self._ledgers[entry.number] = (turn.ledger, turn.published)
                self.inbox = [entry, *(other for other in self.inbox if other.number != entry.number)]
            case Conflict():
                self._take_up(await self._world.persist("reload", lambda: self._world.store.load(self.key)))
        turn.ack()

    def _settled(self, number: Number) -> None:
        position = self._positions.get(number.stream, Position())
        if position.place(number.sequence) is Place.NEXT:
            self._positions[number.stream] = position.settle(number.sequence)
        self.inbox = [entry for entry in self.inbox if entry.number != number]

    def _recorded(self, message_id: str) -> None:
        self._cancelled.discard(message_id)
        self._recent[message_id] = None
        if len(self._recent) > RECENT:
            self._recent_is_all = False
            del self._recent[next(iter(self._recent))]
        self.inbox = [replace(entry, skip=True) if entry.message_id == message_id else entry for entry in self.inbox]

    async def _record(self, message_id: str) -> Record | None:
        if self._recent_is_all and message_id not in self._recent:
            return None
        return await self._world.persist("look-up", lambda: self._world.store.record(self.key, message_id))

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
        if self.life in FINAL:
            return
        due = self._world.clock.monotonic() - PATIENCE
        if not self._placing and self._arrivals and self._arrivals[0].at <= due:
            while self._arrivals and self._arrivals[0].at <= due:
                self._placing.append(self._arrivals.popleft())
            self._world.spawn(self._place_all())
        self.step()

    async def _place_all(self) -> None:
        """Write what has waited long enough to the inbox, in order."""
        store, arrivals = self._world.store, self._placing
        try:
            placed = await asyncio.gather(
                *(
                    self._world.persist(
                        "inbox",
                        lambda arrival=arrival: store.put(  # type: ignore[misc]
                            self.owner, self.key, arrival.entry, arrival.envelope.SerializeToString()
                        ),
                    )
                    for arrival in arrivals
                )
            )
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)
            return
        finally:
            self._placing = []
        for arrival, place in zip(arrivals, placed, strict=True):
            if place in (Placed.NEW, Placed.SKIPPED):
                self.inbox.append(replace(arrival.entry, skip=place is Placed.SKIPPED))
                metrics.INBOX_WRITES.inc()
            arrival.delivery.ack()
        self.step()

    async def _mark(self, turn: Turn) -> None:
        """The turn takes long: its message waits in the store from now on, and its delivery is acked."""
        if turn is not self.turn or turn.waiting:
            return
        entry = replace(turn.entry, running=True)
        try:
            place = await self._world.persist(
                "inbox",
                lambda: self._world.store.put(self.owner, self.key, entry, turn.envelope.SerializeToString()),
            )
        except Fenced as fenced:
            self._world.fenced(self.owner, fenced.epoch)
            return
        if turn is self.turn and place is Placed.NEW:
            turn.waiting = True
            self.inbox.insert(0, entry)
            turn.ack()

    def passed_over(self, missing: Number) -> None:
        """The store gave up a number."""
        position = self._positions.get(missing.stream, Position())
        if position.settled + 1 == missing.sequence:
            self._positions[missing.stream] = position.pass_over()
        self.step()

    def lacks(self, missing: Number) -> bool:
        """Whether the session still waits for this number and nothing of it is here."""
        position = self._positions.get(missing.stream, Position())
        running = self.turn is not None and self.turn.number == missing
        return position.settled + 1 == missing.sequence and not running and not self._holds(missing)

    def arrivals(self) -> list[Arrival]:
        """What was delivered and is neither started nor placed."""
        return [*self._placing, *self._arrivals]

    def _take_up(self, loaded: Loaded) -> None:
        self._loaded = replace(loaded, positions={}, inbox=(), recent=(), cancelled=())
        self._positions = dict(loaded.positions)
        self.inbox = list(loaded.inbox)
        self._recent = dict.fromkeys(loaded.recent)
        self._recent_is_all = len(loaded.recent) < RECENT
        self._cancelled = set(loaded.cancelled)

    def _refuse_other_payload(self, entry: Entry) -> None:
        """The id of a message that runs or waits, with another payload: its sender is told at once."""
        first = self.turn.entry if self.turn is not None and self.turn.message_id == entry.message_id else None
        first = first or next((waiting for waiting in self.inbox if waiting.message_id == entry.message_id), None)
        if first is not None and first.digest != entry.digest and not entry.skip and not first.skip:
            with self._world.hub.log(self.key, entry.message_id) as message_log:
                events = AttemptEvents(
                    message_log, self.key.ref(), entry.message_id, self.owner.epoch, 0, self._world.clock
                )
                events.failed(refused(entry.message_id), only=entry.number)

    def _place(self, number: Number) -> Place:
        return self._positions.get(number.stream, Position()).place(number.sequence)

    def _holds(self, number: Number) -> bool:
        """It waits here already. A copy that is neither started nor placed is the broker's to bring again."""
        return any(entry.number == number for entry in self.inbox)

    def _replace(self, number: Number, entry: Entry) -> None:
        self.inbox = [entry if other.number == number else other for other in self.inbox]

    def _move(self, event: ActorEvent) -> None:
        self.life = after(self.life, event)


def _cancelled(entry: Entry) -> Entry:
    """What has begun is settled by a turn, soon; what has not, the store has settled where it waits."""
    if entry.starts or entry.attempts or entry.running:
        return replace(entry, not_before=0.0)
    return replace(entry, skip=True)
