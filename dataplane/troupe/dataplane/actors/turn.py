"""One message on its way through its session."""

import asyncio
from dataclasses import dataclass, field

from troupe.broker.envelope import digest
from troupe.broker.order import Number
from troupe.broker.port import Delivery
from troupe.chassis.ledger import Ledger
from troupe.chassis.wire import seconds
from troupe.dataplane.state.port import Attempt, Entry
from troupe.v1.envelope_pb2 import Envelope


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
    ledger: Ledger = field(default_factory=Ledger)
    began: bool = False
    """Its behaviour was started, in this attempt."""
    queued: bool = False
    """It waits for another suspect to end."""
    called_off: bool = False
    """It is not to start, if it has not."""
    begins: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has started, or is over."""
    cancelled: bool = False
    """Somebody asked for it to be cancelled."""
    scope: asyncio.Timeout | None = None
    """Set while its behaviour runs."""
    task: asyncio.Task[None] | None = None
    """What runs it."""

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
        return self.began

    def cancel(self) -> None:
        """Stop its behaviour, wherever that is."""
        self.cancelled = True
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(0.0)

    def abandon(self) -> None:
        """Stop it without a trace: somebody else takes it up."""
        if self.task is not None:
            self.task.cancel()


def number_of(envelope: Envelope) -> Number:
    return Number(envelope.number.stream, envelope.number.sequence)


def entry_of(envelope: Envelope, now: float) -> Entry:
    """How a message that comes now enters the inbox."""
    return Entry(
        number=number_of(envelope),
        message_id=envelope.id,
        digest=digest(envelope.content),
        placed=now,
        skip=not envelope.HasField("content"),
        redriven=envelope.redrives > 0,
    )
