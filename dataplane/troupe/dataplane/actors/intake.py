"""From deliveries to the inbox: what is taken in, what is written down, and what memory makes of that."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Place
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.arrivals import Arrival, Arrivals, Placement
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.dataplane.actors.endings import refused
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.actors.patience import PATIENCE
from troupe.dataplane.actors.progress import CODE
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.port import Placed
from troupe.dataplane.state.session import Entry, Owner


class Intake:
    """Of one session. `turn` is the one that runs, `outdated` hears that the store has something else than memory.
    What waits for the store is called by one caller at a time, and raises Fenced."""

    def __init__(
        self,
        key: SessionKey,
        owner: Owner,
        world: World,
        memory: SessionMemory,
        turn: Callable[[], Turn | None],
        outdated: Callable[[], None],
    ) -> None:
        self._key, self._owner, self._world, self._memory = key, owner, world, memory
        self._turn, self._outdated = turn, outdated
        self.arrivals = Arrivals(self._patience)

    def admits(self, arrival: Arrival) -> bool:
        """Whether the arrival is to be kept: it may have an effect, and is not the message that runs."""
        entry, delivery = arrival.entry, arrival.delivery
        if self._memory.place(entry.number) is Place.SETTLED or self._memory.holds(entry.number):
            delivery.ack()
        elif not self.joins(arrival):
            self._refuse_other_payload(entry)
            return True
        return False

    def joins(self, arrival: Arrival) -> bool:
        """It came again, or is a SKIP for the number that runs: it is acked with the turn."""
        running = self._turn()
        turn = None if running is None else running.of(arrival.entry.number)
        if turn is None:
            return False
        turn.deliveries.append(arrival.delivery)
        return True

    async def place(self, until: float) -> bool:
        """Write what was delivered before `until`, a Clock.monotonic(), to the inbox, and ack it; whether any of it
        waits for others that have not come."""
        await self._write_down_copied()
        beyond = False
        for placement in await self.arrivals.place(until, self._world, self._owner, self._key, busy=self._is_busy):
            self._placed(placement)
            placement.arrival.delivery.ack()
            beyond = beyond or self._memory.place(placement.entry.number) is Place.BEYOND
        return beyond

    async def write_down(self, turn: Turn) -> None:
        """The messages of a turn that runs stand in the inbox from now on, under the owner's mark; their deliveries are
        acked."""
        for each in reversed(turn.all):
            await self._write_down(turn, each)

    async def _write_down(self, running: Turn, turn: Turn) -> None:
        counted = turn.attempt + (turn.began or turn.waiting)
        entry = replace(turn.entry, running=self._owner.mark, attempts=counted)
        body = turn.envelope.SerializeToString()
        place = await self._world.persist("inbox", lambda: self._world.store.put(self._owner, self._key, entry, body))
        if running is self._turn() and place in (Placed.NEW, Placed.PRESENT):
            turn.waiting = turn.marked = True
            self._memory.put_first(entry)
        turn.ack()

    async def _write_down_copied(self) -> None:
        """What runs is written down before copies of it are: beside it they become SKIPs, and should its turn not end
        it must not be lost with them."""
        written: Turn | None = None
        while (turn := self._turn()) is not None and turn is not written and self._is_copied(turn):
            await self.write_down(turn)
            written = turn

    def _is_copied(self, turn: Turn) -> bool:
        """It runs unplaced, and a copy of it has arrived. What has not begun may turn out to be a copy itself."""
        copies = (arrival.entry for arrival in self.arrivals.all() if arrival.entry.message_id == turn.message_id)
        return turn.began and not turn.waiting and any(not copy.skip for copy in copies)

    def _placed(self, placement: Placement) -> None:
        entry = placement.entry
        match placement.placed:
            case Placed.NEW | Placed.SKIPPED:
                self._refuse_other_payload(placement.arrival.entry)
                self._memory.wait(entry, recorded=entry.skip)
                self.tell_rejected([entry])
                metrics.INBOX_WRITES.inc()
            case Placed.SCHEDULED:
                self._world.scheduled(self._owner, placement.arrival.entry.due)
            case Placed.PRESENT if not self._memory.holds(entry.number):
                if placement.arrival.entry.due:  # perhaps nobody has heard of that: the answer was lost
                    self._world.scheduled(self._owner, placement.arrival.entry.due)
                self._outdated()
            case Placed.SETTLED if self._turn() is None and self._memory.place(entry.number) is not Place.SETTLED:
                self._outdated()
            case Placed.PRESENT | Placed.SETTLED:
                pass

    def tell_rejected(self, entries: Iterable[Entry]) -> None:
        """Let those who follow what refused to wait look at its end at once: its number is settled in its order."""
        for entry in entries:
            if entry.skip and entry.rejection and self._world.hub.listening(self._key, entry.message_id):
                with self._world.hub.log(self._key, entry.message_id) as message_log:
                    message_log.stir()

    def _patience(self) -> float:
        """Only commits are worth waiting for: a turn whose code runs may take long, however fast the store is, and so
        may what holds the session up while no turn runs."""
        turn = self._turn()
        if turn is None or turn.waits_for == CODE:
            return PATIENCE[0]
        behind = len(self._memory.inbox) + len(self.arrivals) - turn.waiting
        return self._world.patience.behind_commits(behind)

    def _is_busy(self) -> bool:
        turn = self._turn()
        return turn is not None and not turn.waiting

    def _refuse_other_payload(self, entry: Entry) -> None:
        """The id of a message that waits, with another payload: its sender is told at once, where it is sure which of
        them is the message. It is not beside one that runs and does not wait, nor where either may be a copy: then
        the sender is told when the number is settled."""
        running = self._turn()
        unplaced = running is not None and running.message_id == entry.message_id and not running.waiting
        if unplaced or self._memory.may_have_record(entry.message_id):
            return
        first = self._memory.waiting(entry.message_id)
        if first is not None and first.digest != entry.digest and not entry.skip and not first.skip:
            with self._world.hub.log(self._key, entry.message_id) as message_log:
                events = AttemptEvents(
                    message_log, self._key.ref(), entry.message_id, self._owner.epoch, 0, self._world.clock
                )
                events.failed(refused(entry.message_id), only=entry.number)
