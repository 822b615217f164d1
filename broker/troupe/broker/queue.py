"""One queue inside this process: what is ready, who consumes it, what is unacked. Backends keep it durable."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from troupe.broker import metrics
from troupe.broker.port import Delivery
from troupe.chassis.errors import FailedPrecondition


@dataclass(slots=True)
class Stored:
    """One message of a queue."""

    id: int
    body: bytes
    published: float
    redeliveries: int = 0


class Queue:
    """Hands messages to its consumers in the order of their ids: to one where it is a mailbox, in turn to any number
    where it is `shared`. `on_ack` hears each acked id; `on_room` is called when deliveries wait for messages that may
    be elsewhere."""

    def __init__(
        self,
        name: str,
        shared: bool,
        on_ack: Callable[[int], None] = lambda _: None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self._shared = name, shared
        self._on_ack, self._on_room = on_ack, on_room
        self._ready: deque[Stored] = deque()
        self._consumers: deque[Consumer] = deque()
        self._pumping = False
        self._shut = False
        self.reached = 0.0
        """When the newest of the messages that were delivered so far was published."""

    @property
    def consumed(self) -> bool:
        return bool(self._consumers)

    @property
    def ready(self) -> int:
        """Messages that wait here for a consumer."""
        return len(self._ready)

    @property
    def messages(self) -> int:
        """Messages that are here, unacked ones included. May be asked from any thread."""
        return len(self._ready) + sum(len(consumer.unacked) for consumer in list(self._consumers))

    @property
    def oldest(self) -> float | None:
        """When the oldest message that is here was published. May be asked from any thread."""
        heads = [list(consumer.unacked.values())[:1] for consumer in list(self._consumers)]
        heads.append(list(self._ready)[:1])
        return min((message.published for head in heads for message in head), default=None)

    def push(self, message: Stored) -> None:
        self._ready.append(message)
        self.pump()

    def subscribe(self, handler: Callable[[Delivery], None], prefetch: int) -> "Consumer":
        if self._consumers and not self._shared:
            raise FailedPrecondition("MAILBOX_CONSUMED", f"{self.name} has a consumer already")
        consumer = Consumer(self, handler, prefetch)
        self._consumers.append(consumer)
        self.pump()
        return consumer

    def pump(self) -> None:
        """Deliver what there is room for, soon: a handler that acks at once does not recurse."""
        if not self._pumping and self._consumers:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def shut(self) -> None:
        """The broker closes: deliver nothing more, and hear no acks."""
        self._shut = True

    def release(self, consumer: "Consumer") -> None:
        """Forget the consumer, and give what it had not acked to others, in its old place."""
        if consumer not in self._consumers:
            return
        self._consumers.remove(consumer)
        returned, consumer.unacked = list(consumer.unacked.values()), {}
        if not returned:
            return
        for message in returned:
            message.redeliveries += 1
        newest = max(message.id for message in returned)
        while self._ready and self._ready[0].id < newest:
            returned.append(self._ready.popleft())
        returned.sort(key=lambda message: message.id)
        self._ready.extendleft(reversed(returned))
        self.pump()

    def acked(self, message: Stored) -> None:
        if not self._shut:
            self._on_ack(message.id)
            self.pump()

    def _deliver(self) -> None:
        self._pumping = False
        if self._shut:
            return
        while self._ready and (consumer := self._next()) is not None:
            message = self._ready.popleft()
            self.reached = max(self.reached, message.published)
            consumer.take(message)
        if any(consumer.room for consumer in self._consumers):
            self._on_room()

    def _next(self) -> "Consumer | None":
        """The consumer whose turn it is, of those that have room."""
        for _ in range(len(self._consumers)):
            consumer = self._consumers[0]
            if len(self._consumers) > 1:
                self._consumers.rotate(-1)
            if consumer.room:
                return consumer
        return None


class Consumer:
    """A Subscription to a Queue."""

    def __init__(self, queue: Queue, handler: Callable[[Delivery], None], prefetch: int) -> None:
        self._queue, self._handler, self._prefetch = queue, handler, prefetch
        self._active = True
        self.unacked: dict[int, Stored] = {}

    @property
    def connected(self) -> bool:
        return self._active

    @property
    def room(self) -> bool:
        return self._active and len(self.unacked) < self._prefetch

    def take(self, message: Stored) -> None:
        self.unacked[message.id] = message
        metrics.DELIVERIES.inc()
        if message.redeliveries:
            metrics.REDELIVERIES.inc()
        self._handler(
            Delivery(
                message.body, self._queue.name, message.published, message.redeliveries, lambda: self._ack(message)
            )
        )

    def _ack(self, message: Stored) -> None:
        if self.unacked.pop(message.id, None) is not None:
            metrics.ACKS.inc()
            self._queue.acked(message)

    async def limit(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._queue.pump()

    async def cancel(self) -> None:
        self._active = False

    async def close(self) -> None:
        self._active = False
        self._queue.release(self)
