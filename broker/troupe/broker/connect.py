"""From a URL to a broker."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from troupe.broker.memory import MemoryBroker
from troupe.broker.port import Broker
from troupe.broker.sqlite import SqliteBroker
from troupe.chassis.errors import InvalidArgument, Unimplemented


@contextlib.asynccontextmanager
async def connected(url: str, max_depth: int = 1_000_000) -> AsyncIterator[Broker]:
    """The broker that `url` names: `sqlite:///PATH` (four slashes for an absolute path) or `memory://`. `max_depth`
    bounds each mailbox. Raises InvalidArgument for any other URL, Unimplemented for `amqp://`, and what
    SqliteBroker.opened raises."""
    scheme, _, path = url.partition(":///")
    if url == "memory://":
        yield MemoryBroker(max_depth)
    elif scheme == "sqlite" and path not in ("", ":memory:"):
        async with SqliteBroker.opened(Path(path), max_depth) as broker:
            yield broker
    elif url.startswith(("amqp://", "amqps://")):
        raise Unimplemented(
            "NOT_BUILT", "the RabbitMQ broker is not built yet; use sqlite:///PATH, which is durable on one machine"
        )
    else:
        raise InvalidArgument("BAD_BROKER_URL", f"no broker at {url!r}: the URL must be sqlite:///PATH or memory://")
