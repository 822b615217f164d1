"""From a URL to a broker. A server's client is imported for a URL of that server."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from troupe.broker.memory import MemoryBroker
from troupe.broker.port import Broker
from troupe.broker.sqlite import SqliteBroker
from troupe.chassis.errors import InvalidArgument


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Broker]:
    """The broker that `url` names: `amqp://USER:PASSWORD@HOST:PORT/VHOST` or `amqps://…`, `sqlite:///PATH` (four
    slashes for an absolute path) or `memory://`. Raises InvalidArgument for any other URL, and what
    RabbitmqBroker.opened and SqliteBroker.opened raise."""
    scheme, _, path = url.partition(":///")
    if url == "memory://":
        memory = MemoryBroker()
        try:
            yield memory
        finally:
            memory.shut()
    elif scheme == "sqlite" and path not in ("", ":memory:"):
        async with SqliteBroker.opened(Path(path)) as broker:
            yield broker
    elif url.startswith(("amqp://", "amqps://")):
        from troupe.broker.rabbitmq.broker import RabbitmqBroker

        async with RabbitmqBroker.opened(url) as broker:
            yield broker
    else:
        raise InvalidArgument(
            "BAD_BROKER_URL", f"no broker at {url!r}: the URL must be amqp://…, sqlite:///PATH or memory://"
        )
