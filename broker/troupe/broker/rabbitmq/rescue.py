"""What had no queue to go to, and no publisher that waits for it: messages that came back from a delay queue, or that
the server gave up. Their queue is declared again, and they are sent there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from pika import spec

from troupe.broker.port import AGENTS, Delivery
from troupe.broker.rabbitmq import topology
from troupe.chassis.errors import TroupeError

PAUSE = 1.0
"""Seconds after which a message that could not be sent is tried again."""
_DEATHS = ("x-death", "x-first-")
"""Headers: what the server says of how a message left its queues."""

log = structlog.get_logger()


class Rescue:
    """Handles the deliveries of the queue of strays. `send` takes an exchange, a routing key, a body, headers and a
    message id; `declare` the name of a queue."""

    def __init__(
        self,
        send: Callable[[str, str, bytes, dict[str, Any], str | None], Awaitable[None]],
        declare: Callable[[str], Awaitable[None]],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._send, self._declare, self._tasks = send, declare, tasks

    def handle(self, delivery: Delivery, method: spec.Basic.Deliver, properties: spec.BasicProperties) -> None:
        """Begin with a delivery. The prefetch bounds how many are under way."""
        exchange = topology.DEAD if method.exchange == topology.DEAD else topology.IN
        # What is not UTF-8 is bytes, here and in the names of headers.
        key = method.routing_key if isinstance(method.routing_key, str) else ""
        queue = topology.destination(exchange, key)
        if topology.found(queue) is None:  # nobody's: it is kept where people look
            exchange, key, queue = topology.DEAD, AGENTS, topology.letter_queue(AGENTS).name
        self._tasks.create_task(self._rescue(delivery, exchange, key, queue, properties))

    async def _rescue(
        self, delivery: Delivery, exchange: str, key: str, queue: str, properties: spec.BasicProperties
    ) -> None:
        headers: dict[str, Any] = dict(properties.headers or {})
        if exchange != topology.DEAD:  # a letter shows what the server says of its death
            headers = {name: value for name, value in headers.items() if not str(name).startswith(_DEATHS)}
        while True:
            try:
                await self._declare(queue)
                await self._send(exchange, key, delivery.body, headers, properties.message_id)
            except TroupeError as error:
                log.warning("a message without a queue waits", queue=queue, error=str(error))
                await asyncio.sleep(PAUSE)
            else:
                delivery.ack()
                return
