"""The server of the broker, and the channels to it that processes consume over."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import decode
from troupe.broker.memory import MemoryBroker
from troupe.broker.order import Number
from troupe.broker.port import Delivery, Subscription
from troupe.broker.queue import Queue, Stored
from troupe.v1.envelope_pb2 import ENVELOPE_KIND_PROBE


class Server:
    """The broker's server: mailboxes that outlive the processes, and give back what a lost consumer had unacked."""

    def __init__(self, broker: MemoryBroker, dice: random.Random) -> None:
        self.broker, self._dice = broker, dice
        self._channels: dict[str, list[Channel]] = {}
        self._probed: dict[SessionKey, float] = {}

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int) -> "Channel":
        """A consumer. One of a mailbox is active; the next one is when that is gone."""

        def deliver(delivery: Delivery) -> None:
            delivery.channel = channel.opened
            envelope = decode(delivery.body)
            if envelope.kind == ENVELOPE_KIND_PROBE:
                self._probed[SessionKey.of(envelope.target)] = delivery.published
            handler(delivery)

        channel = Channel(self, queue, lambda: self.broker.consume(queue, deliver, prefetch))
        await self.open(channel)
        return channel

    async def open(self, channel: "Channel") -> None:
        """Deliver over it when its turn has come."""
        channels = self._channels.setdefault(channel.queue, [])
        if channel not in channels:
            channels.append(channel)
        await self._activate(channel.queue)

    async def close(self, channel: "Channel") -> None:
        """What is unacked is ready again, as redelivered: where it was, at the end, or anywhere."""
        if channel not in self._channels[channel.queue]:
            return
        self._channels[channel.queue].remove(channel)
        if channel.consumer is not None:
            consumer, channel.consumer = channel.consumer, None
            await self._give_back(self.broker._queues[channel.queue], consumer)
            await self._activate(channel.queue)

    async def _activate(self, queue: str) -> None:
        waiting = self._channels[queue]
        if waiting and waiting[0].consumer is None:
            waiting[0].opened += 1
            waiting[0].consumer = await waiting[0].subscribe()

    async def _give_back(self, box: Queue, consumer: Subscription) -> None:
        before = box.ready
        await consumer.close()
        returned = [box._ready.popleft() for _ in range(box.ready - before)]
        match self._dice.randrange(4):
            case 0:
                box._ready.extendleft(reversed(returned))
            case 1 | 2:
                box._ready.extend(returned)
            case _:
                for message in returned:
                    box._ready.insert(self._dice.randint(0, box.ready), message)

    def holds(self, key: SessionKey, number: Number) -> bool:
        """Whether anything with this number is in a mailbox, unacked included, and was there before the session's last
        probe that came back, if any did."""
        probed = self._probed.get(key, float("inf"))
        return any(self._number(message.body) == number and message.published <= probed for message in self._messages())

    @property
    def empty(self) -> bool:
        return not self._messages()

    def _messages(self) -> list[Stored]:
        return [
            message
            for box in self.broker._queues.values()
            for message in [*box._ready, *(held for consumer in box._consumers for held in consumer.unacked.values())]
        ]

    @staticmethod
    def _number(body: bytes) -> Number:
        number = decode(body).number
        return Number(number.stream, number.sequence)


class Channel:
    """A Subscription, as its worker has it: the server may have closed it long before."""

    def __init__(self, server: Server, queue: str, subscribe: Callable[[], Awaitable[Subscription]]) -> None:
        self._server, self.queue, self.subscribe = server, queue, subscribe
        self._wanted = True
        self.consumer: Subscription | None = None
        self.opened = 0
        """How often: deliveries of before are void."""

    def __repr__(self) -> str:
        return f"channel of {self.queue}"

    @property
    def connected(self) -> bool:
        return self.consumer is not None

    async def limit(self, prefetch: int) -> None:
        if self.consumer is not None:
            await self.consumer.limit(prefetch)

    async def cancel(self) -> None:
        self._wanted = False
        if self.consumer is not None:
            await self.consumer.cancel()
        else:
            await self._server.close(self)

    async def close(self) -> None:
        self._wanted = False
        await self._server.close(self)

    def abandon(self) -> None:
        """Its worker is dead; the server does not know."""
        self._wanted = False

    async def reopen(self, after: float) -> None:
        """The connection breaks, and the client's library subscribes again without a word."""
        await self._server.close(self)
        await asyncio.sleep(after)
        if self._wanted:
            await self._server.open(self)
