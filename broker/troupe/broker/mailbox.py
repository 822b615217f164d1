"""One mailbox inside this process: what is ready, who consumes it, what is unacked. Backends keep it durable."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from troupe.broker.metrics import ACKS, DELIVERIES, REDELIVERIES
from troupe.broker.port import Delivery
from troupe.chassis.errors import FailedPrecondition


@dataclass(slots=True)
class Stored:
    """One message of a mailbox."""

    id: int
    body: bytes
    published: float
    redeliveries: int = 0


class Mailbox:
    """Hands messages to one consumer in the order of their ids. `on_ack` hears each acked id; `on_room` is called
    when deliveries wait for messages that may be elsewhere."""

    def __init__(
        self,
        name: str,
        on_ack: Callable[[int], None] = lambda _: None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._on_ack, self._on_room = on_ack, on_room
        self._ready: deque[Stored] = deque()
        self._consumer: Consumer | None = None
        self._pumping = False
        self._shut = False

    @property
    def consumed(self) -> bool:
        return self._consumer is not None

    @property
    def ready(self) -> int:
        """Messages that wait here for the consumer."""
        return len(self._ready)

    @property
    def messages(self) -> int:
        """Messages that are here, unacked ones included."""
        return len(self._ready) + (len(self._consumer.unacked) if self._consumer else 0)

    @property
    def oldest(self) -> float | None:
        """When the oldest message that is here was confirmed."""
        unacked = next(iter(self._consumer.unacked.values()), None) if self._consumer else None
        first = unacked or (self._ready[0] if self._ready else None)
        return first.published if first else None

    def push(self, message: Stored) -> None:
        self._ready.append(message)
        self.pump()

    def subscribe(self, handler: Callable[[Delivery], None], prefetch: int) -> "Consumer":
        if self._consumer is not None:
            raise FailedPrecondition("MAILBOX_CONSUMED", f"{self.name} has a consumer already")
        self._consumer = Consumer(self, handler, prefetch)
        self.pump()
        return self._consumer

    def pump(self) -> None:
        """Deliver what there is room for, soon: a handler that acks at once does not recurse."""
        if not self._pumping and self._consumer is not None:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def shut(self) -> None:
        """The broker closes: deliver nothing more, and hear no acks."""
        self._shut = True

    def release(self, consumer: "Consumer") -> None:
        if self._consumer is consumer:
            self._consumer = None

    def give_back(self, messages: list[Stored]) -> None:
        for message in reversed(messages):
            message.redeliveries += 1
            self._ready.appendleft(message)
        self.pump()

    def acked(self, message: Stored) -> None:
        if not self._shut:
            self._on_ack(message.id)
            self.pump()

    def _deliver(self) -> None:
        self._pumping = False
        consumer = self._consumer
        if consumer is None or self._shut:
            return
        while consumer.room and self._ready:
            consumer.take(self._ready.popleft())
        if consumer.room:
            self._on_room()


class Consumer:
    """A Subscription to a Mailbox."""

    def __init__(self, mailbox: Mailbox, handler: Callable[[Delivery], None], prefetch: int) -> None:
        self._mailbox, self._handler, self._prefetch = mailbox, handler, prefetch
        self._active = True
        self.unacked: dict[int, Stored] = {}

    @property
    def room(self) -> bool:
        return self._active and len(self.unacked) < self._prefetch

    def take(self, message: Stored) -> None:
        self.unacked[message.id] = message
        DELIVERIES.inc()
        if message.redeliveries:
            REDELIVERIES.inc()
        self._handler(
            Delivery(
                message.body, self._mailbox.name, message.published, message.redeliveries, lambda: self._ack(message)
            )
        )

    def _ack(self, message: Stored) -> None:
        if self.unacked.pop(message.id, None) is not None:
            ACKS.inc()
            self._mailbox.acked(message)

    async def cancel(self) -> None:
        self._active = False

    async def close(self) -> None:
        self._active = False
        self._mailbox.release(self)
        unacked, self.unacked = list(self.unacked.values()), {}
        self._mailbox.give_back(unacked)
