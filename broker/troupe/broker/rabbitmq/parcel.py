"""A message on its way to the server: where it goes, what it carries, and who waits for its outcome."""

import asyncio

from troupe.broker.port import NotSent
from troupe.broker.rabbitmq import wire
from troupe.chassis.errors import TroupeError, Unavailable


class Route:
    """Where messages go. One object for each exchange and key, so that what waits for its repair is kept together."""

    __slots__ = ("exchange", "failures", "held", "key", "mending", "method")

    def __init__(self, exchange: str, key: str) -> None:
        self.exchange, self.key = exchange, key
        self.method = wire.publish_frame(exchange, key)
        self.mending = False
        self.failures = 0
        self.held: list[Parcel] = []


class Batch:
    """What one caller waits for."""

    __slots__ = ("left", "waiter")

    def __init__(self, left: int, loop: asyncio.AbstractEventLoop) -> None:
        self.left = left
        self.waiter: asyncio.Future[None] = loop.create_future()


class Parcel:
    """One message on its way. `properties` are encoded ones, or None for those of any message."""

    __slots__ = ("batch", "body", "bounced", "outcome", "properties", "published", "returned", "route", "unsure")

    def __init__(self, route: Route, body: bytes, properties: bytes | None, published: int, batch: Batch) -> None:
        self.route, self.body, self.properties, self.published, self.batch = route, body, properties, published, batch
        self.outcome: TroupeError | None = None
        self.returned = False  # it came back, and its confirm will say so
        self.bounced = False  # it came back before
        self.unsure = False  # an earlier try may have reached the queue

    def settle(self, outcome: TroupeError | None) -> None:
        self.outcome = outcome
        batch = self.batch
        batch.left -= 1
        if batch.left == 0 and not batch.waiter.done():
            batch.waiter.set_result(None)

    def failed(self, reason: str, message: str) -> None:
        """It is not in flight and will not be sent again."""
        if self.unsure:
            self.settle(Unavailable(reason, f"{message}; an earlier try may have reached it"))
        else:
            self.settle(NotSent(reason, f"{message}; it was not sent"))
