"""What was delivered to one session and neither started nor written to its inbox."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from troupe.broker.addressing import SessionKey
from troupe.broker.port import Delivery
from troupe.chassis.clock import Clock
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.port import Placed
from troupe.dataplane.state.schedule import entering
from troupe.dataplane.state.session import Entry, Owner
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Envelope


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """One delivery."""

    delivery: Delivery
    envelope: Envelope
    entry: Entry
    at: float
    """Clock.monotonic() of its delivery."""

    def turn(self, clock: Clock) -> Turn:
        """Its turn, on the fast path."""
        published = clock.monotonic() - max(0.0, clock.now() - self.delivery.published)
        turn = Turn(self.envelope, self.entry, min(published, self.at), deliveries=[self.delivery])
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_BROKER_WAIT, turn.published, self.at)
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_MAILBOX_WAIT, self.at, clock.monotonic())
        return turn

    def due(self, patience: float) -> float:
        """Clock.monotonic() when it is to be placed: what comes for later at once, as what refuses to wait."""
        return self.at if self.entry.due or self.entry.rejection else self.at + patience


class Arrivals:
    """In the order of deliveries. Those that are being placed come first, and nothing starts past them; also where
    that was cut off, so that nobody knows which of them the store has."""

    def __init__(self, patience: Callable[[], float]) -> None:
        """`patience` gives the seconds that one may wait, as things are."""
        self._patience = patience
        self._placing: list[Arrival] = []
        self._cut_off = False
        self._fresh: deque[Arrival] = deque()

    def __len__(self) -> int:
        return len(self._placing) + len(self._fresh)

    def __contains__(self, arrival: Arrival) -> bool:
        return arrival in self._placing or arrival in self._fresh

    def all(self) -> list[Arrival]:
        return [*self._placing, *self._fresh]

    def add(self, arrival: Arrival) -> None:
        self._fresh.append(arrival)

    def sift(self, keep: Callable[[Arrival], bool]) -> None:
        """Drop those that are not to be kept."""
        if self._fresh:
            self._fresh = deque(arrival for arrival in self._fresh if keep(arrival))

    def oldest(self) -> Arrival | None:
        """Of those that are here, the one that came first."""
        return next(iter(self._placing or self._fresh), None)

    def first(self) -> Arrival | None:
        """The one that may start next, if any may."""
        return self._fresh[0] if self._fresh and not self._placing else None

    def start(self) -> Arrival:
        """Take out the first."""
        return self._fresh.popleft()

    def due(self) -> float | None:
        """Clock.monotonic() when the next one is to be placed; None while some are being placed, or none is here."""
        if self._cut_off:
            return self._placing[0].at
        return self._fresh[0].due(self._patience()) if self._fresh and not self._placing else None

    def clear(self) -> None:
        """They are the broker's again."""
        self._fresh.clear()

    async def place(
        self, until: float, world: World, owner: Owner, key: SessionKey, *, busy: Callable[[], bool]
    ) -> list["Placement"]:
        """Write those that came before `until`, a Clock.monotonic(), to the inbox, in order. `busy`: a turn runs whose
        message does not wait. Raises Fenced. Where the caller is cancelled, they are to be placed again. One call at a
        time."""
        self._cut_off = False
        while self._fresh and self._fresh[0].at <= until:
            self._placing.append(self._fresh.popleft())

        async def put(arrival: Arrival) -> Placement:
            entry, body = arrival.entry, arrival.envelope.SerializeToString()
            placed = await world.persist("inbox", lambda: world.store.put(owner, key, entry, body, busy=busy()))
            return Placement(arrival, replace(entering(entry), skip=placed is Placed.SKIPPED), placed)

        try:
            return list(await asyncio.gather(*map(put, self._placing)))
        except asyncio.CancelledError:
            self._cut_off = True
            raise
        finally:
            if not self._cut_off:
                self._placing = []


@dataclass(frozen=True, slots=True)
class Placement:
    """What became of one."""

    arrival: Arrival
    entry: Entry
    """As it stands in the inbox, where it is new there."""
    placed: Placed
