"""Delays that are longer than the longest delay queue: whoever gets a message back from one sends it on to the next.

How much of the delay is left travels with the message, and each delay queue takes its part off. So the server's time
alone tells when a delay is over; workers may disagree by minutes about what time it is."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from pika import spec

from troupe.broker.port import Delivery
from troupe.broker.rabbitmq import ladder, topology
from troupe.chassis.errors import TroupeError

PAUSE = 1.0
"""Seconds after which a message that could not be sent on is tried again."""
_QUEUE = "troupe-queue"
"""Header: the queue that the message is for."""
_LEFT = "troupe-left"
"""Header: how long it is to wait once more, in milliseconds."""

log = structlog.get_logger()

Send = Callable[[str, str, bytes, dict[str, object]], Awaitable[None]]
"""Takes an exchange, a routing key, a body and headers; returns once the message cannot be lost."""


async def defer(send: Send, queue: str, body: bytes, delay: float) -> None:
    """Send the message to a delay queue, so that it comes to `queue` in about `delay` seconds; returns once it cannot
    be lost. Raises what `send` does."""
    exchange = topology.delay_queue(ladder.rung(delay)).name
    if left := ladder.left(delay):
        await send(exchange, topology.RELAY.name, body, {_QUEUE: queue, _LEFT: int(left * 1_000)})
    else:
        await send(exchange, queue, body, {})


class Relay:
    """Handles the deliveries of the queue between two delays."""

    def __init__(self, send: Send, tasks: asyncio.TaskGroup) -> None:
        self._send, self._tasks = send, tasks

    def handle(self, delivery: Delivery, _: spec.Basic.Deliver, properties: spec.BasicProperties) -> None:
        """Begin with a delivery. The prefetch bounds how many are under way."""
        queue, left = _journey(properties.headers or {})
        self._tasks.create_task(self._go_on(delivery, queue, left))

    async def _go_on(self, delivery: Delivery, queue: str, left: float) -> None:
        while True:
            try:
                await defer(self._send, queue, delivery.body, left)
            except TroupeError as error:
                log.warning("a deferred message waits to be sent on", queue=queue, error=str(error))
                await asyncio.sleep(PAUSE)
            else:
                delivery.ack()
                return


def _journey(headers: Mapping[str, object]) -> tuple[str, float]:
    """Where a message is to go, and in how many seconds. One that says neither is nobody's: it waits once more, and
    finds its way to the strays."""
    queue, left = headers.get(_QUEUE), headers.get(_LEFT)
    if isinstance(queue, str) and topology.found(queue) is not None and isinstance(left, int):
        return queue, left / 1_000
    return "", 0.0
