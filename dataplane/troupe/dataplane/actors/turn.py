"""One message on its way through its session."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from troupe.broker.order import Number
from troupe.broker.port import Delivery
from troupe.chassis.ledger import Ledger
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.dataplane.actors.progress import CODE, STORE
from troupe.dataplane.state.control import Promise
from troupe.dataplane.state.session import Attempt, Entry
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.turn_pb2 import LedgerCause


@dataclass(slots=True, eq=False)
class Turn:
    """The message whose turn it is: on the fast path it is still unacked, otherwise it stands in the inbox."""

    envelope: Envelope
    entry: Entry
    """As it stands, or would stand, in the inbox."""
    published: float
    """Clock.monotonic() of the publish confirm, as near as the broker says it."""
    attempt: int = 0
    waiting: bool = False
    """It stands in the inbox."""
    marked: bool = False
    """It stands there under its owner's mark, and goes on whoever owns the shard."""
    deliveries: list[Delivery] = field(default_factory=list)
    journal: dict[str, bytes] = field(default_factory=dict)
    unheard: dict[str, bytes] = field(default_factory=dict)
    """Results whose writing was under way as its attempt was stopped: the store may have them, or not."""
    promises: dict[str, Promise] = field(default_factory=dict)
    """That its attempts made, by id."""
    batch: Sequence["Turn"] = ()
    """Messages behind its own that it settles too, where it takes a batch: all of them wait."""
    gathered: float = 0.0
    """Clock.monotonic() when the starts of its batch were counted."""
    counted: bool = False
    """Its start was counted, where it waits."""
    events: AttemptEvents = field(init=False, repr=False)
    """What this attempt shows."""
    ledger: Ledger = field(default_factory=Ledger)
    began: bool = False
    """Its behaviour was started, in this attempt."""
    queued: bool = False
    """It waits for another suspect to end."""
    suspect: bool = False
    """No other suspect begins before it has ended."""
    called_off: bool = False
    """It is not to start, if it has not."""
    begins: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has started, or is over."""
    cancelled: bool = False
    """Somebody asked for it to be cancelled."""
    killed: bool = False
    """The same, without compensations."""
    paused: bool = False
    """Its attempt ends in a wait for RESUME."""
    awaits: tuple[str, ...] = ()
    """Promises for which its attempt ends in a wait."""
    suspended: bool = False
    """Its attempt was stopped, to end in a wait."""
    resumed: bool = False
    """Its attempt ended in a wait that was over at once, and began anew."""
    compensates: bool = False
    """It is cancelled, and what it has done is taken back."""
    scope: asyncio.Timeout | None = None
    """Set while its behaviour runs."""
    task: asyncio.Task[None] | None = None
    """What runs it."""
    due: float = math.inf
    """Clock.monotonic() when it is to have got on: at once, but while its behaviour runs at the deadline."""
    waits_for: LedgerCause.ValueType = STORE
    """What it waits for, while it does not get on."""
    left_behind: bool = False
    """It does not end, and its session goes on without it."""
    abandoned: bool = False
    """It was stopped without a trace."""

    @property
    def number(self) -> Number:
        return self.entry.number

    @property
    def message_id(self) -> str:
        return self.entry.message_id

    @property
    def attempts(self) -> int:
        """Attempts begun, this one included where it began."""
        return self.attempt + self.began

    @property
    def named(self) -> Attempt:
        """This attempt, as the store knows it."""
        return Attempt(self.number, self.message_id, self.attempt, self.entry.digest)

    @property
    def expires(self) -> float:
        """Seconds since the epoch."""
        return seconds(self.envelope.expires)

    @property
    def all(self) -> list["Turn"]:
        """It, and those of its batch, in the order in which they waited."""
        return [self, *self.batch]

    def of(self, number: Number) -> "Turn | None":
        """It, or the one of its batch, whose number this is."""
        if number == self.entry.number:
            return self
        return next((other for other in self.batch if other.entry.number == number), None)

    def ack(self) -> None:
        """Its deliveries have had their effect, or wait in the inbox."""
        deliveries, self.deliveries = self.deliveries, []
        for delivery in deliveries:
            delivery.ack()

    def call_off(self) -> None:
        """It is not to start, if it has not."""
        self.called_off = not self.began
        if self.queued:
            self.abandon()

    def start(self) -> bool:
        """Whether it may start; it has then."""
        if not self.called_off:
            self.began = True
            self.begins.set()
            for other in self.batch:
                other.began = True
        return self.began

    @property
    def suspends(self) -> bool:
        """Its attempt is to end in a wait."""
        return self.paused or bool(self.awaits)

    @property
    def continues(self) -> bool:
        """The attempt before ended in a wait."""
        return self.resumed or (self.entry.suspended > 0 and self.attempt > 0 and not self.entry.starts)

    def cancel(self, *, kill: bool) -> None:
        """Stop its behaviour, wherever that is; compensations only to `kill` it."""
        self.cancelled = True
        self.killed = self.killed or kill
        if self.killed or not self.compensates:
            self._stop()

    def acts(self, scope: asyncio.Timeout, due: float) -> None:
        """Its behaviour runs, in this scope, until `due`, a Clock.monotonic()."""
        self.scope, self.waits_for, self.due = scope, CODE, due

    def has_acted(self, now: float) -> None:
        """Its behaviour runs no more: from now on the runtime has it."""
        self.scope, self.waits_for, self.due = None, STORE, now

    def suspend(self) -> None:
        """Stop its behaviour: the attempt ends in a wait."""
        self.suspended = True
        self._stop()

    def goes_on(self) -> None:
        """There is nothing to wait for: another attempt begins, from the journal. It has an index of its own, since the
        store may have taken the wait for this one's end before its reason went."""
        self.attempt += 1
        self.paused = self.suspended = False
        self.resumed = True
        self.awaits = ()

    def _stop(self) -> None:
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(0.0)

    def abandon(self) -> None:
        """Stop it without a trace: somebody else takes it up. Once: it is not to be stopped in its own cleaning up."""
        if self.task is not None and not self.abandoned:
            self.abandoned = True
            self.task.cancel()


def waiting_turn(entry: Entry, batch: Sequence[Entry] = ()) -> Turn:
    """The turn of a message that waits in the inbox, and of those that it takes beside. Their envelopes come with the
    start."""
    first, *others = (Turn(Envelope(), each, 0.0, attempt=each.attempts, waiting=True) for each in (entry, *batch))
    first.batch = others
    return first
