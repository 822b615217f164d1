"""Envelopes to publish, and a consumer that keeps what it is handed until the test acks it."""

import asyncio
from collections.abc import Callable, Iterable

from troupe.broker.addressing import SessionKey
from troupe.broker.addressing import mailbox as queue_of
from troupe.broker.port import Delivery
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Content, Envelope, Number, SessionRef


def message(sequence: int, stream: str = "stream", session: str = "session", text: str = "") -> Envelope:
    """The `sequence`-th message of a stream, whole enough to be decoded."""
    return Envelope(
        id=f"{stream}-{sequence}",
        target=SessionRef(tenant="default", namespace="default", agent="clerk", session=session),
        number=Number(stream=stream, sequence=sequence),
        kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
        content=Content(text=text),
    )


def session_in(shard: int, shards: int) -> str:
    """A session of agent `clerk` that lies in this shard."""
    return next(
        name
        for name in (f"session-{number}" for number in range(10_000))
        if SessionKey("default", "default", "clerk", name).shard(shards) == shard
    )


def number(delivery: Delivery) -> int:
    return Envelope.FromString(delivery.body).number.sequence


class Receiver:
    """A handler for `Broker.consume`. `on_delivery` is called with each delivery, after it was kept."""

    def __init__(self, on_delivery: Callable[[Delivery], None] = lambda _: None) -> None:
        self.deliveries: list[Delivery] = []
        self._on_delivery = on_delivery
        self._changed = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._changed.set()
        self._on_delivery(delivery)

    @property
    def numbers(self) -> list[int]:
        return [number(delivery) for delivery in self.deliveries]

    async def received(self, count: int, within: float = 20.0) -> list[int]:
        """The numbers of all deliveries, once there are at least `count`."""
        async with asyncio.timeout(within):
            while len(self.deliveries) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.numbers

    async def received_last(self, last: int, within: float = 20.0) -> list[int]:
        """The numbers of all deliveries, once the number `last` came."""
        async with asyncio.timeout(within):
            while last not in self.numbers:
                self._changed.clear()
                await self._changed.wait()
        return self.numbers

    async def received_all(self, wanted: Iterable[int], within: float = 20.0) -> None:
        """Returns once each of these numbers came, at least once."""
        missing = set(wanted)
        async with asyncio.timeout(within):
            while missing := missing.difference(self.numbers):
                self._changed.clear()
                await self._changed.wait()

    def ack_all(self) -> None:
        for delivery in self.deliveries:
            if not delivery.acked:
                delivery.ack()


__all__ = ["Receiver", "message", "number", "queue_of", "session_in"]
