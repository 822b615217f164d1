"""One session at its full speed: a handler of 1 ms behind a mailbox, and the same handler behind an asyncio.Queue.

`python -m bench.broker.session queue|troupe URL MESSAGES`. In both, a sender runs beside the handler in one process and
stays up to AHEAD messages before it; the handler takes one message at a time. On the port: nothing is committed.
"""

import asyncio
import sys
from functools import partial

import meter
from support.rabbitmq import Node

from bench.broker.messages import Sender
from bench.contender import measurement, ours
from bench.rounds import in_rounds
from bench.rows import Row, compared
from troupe.broker.addressing import mailbox
from troupe.broker.connect import connected
from troupe.broker.port import Delivery

HANDLER = 0.001
"""Seconds that the handler waits, as for a model or a tool."""
AHEAD = 1000
BATCH = 100
SHORT = 5_000
"""Messages of one round. `make soak` sends 100,000."""


def measure(node: Node, rounds: int, messages: int = SHORT) -> list[Row]:
    """Raises ContenderFailed."""

    def rate(mode: str) -> float:
        url = node.vhost()
        try:
            return measurement(f"session {mode}", ours("bench.broker.session", mode, url, str(messages))).rate
        finally:
            node.drop_vhost(url)

    rates = in_rounds(rounds, {mode: partial(rate, mode) for mode in ("troupe", "queue")})
    metric = f"{messages:,} messages to one session, handler of 1 ms"
    return [compared(metric, "/s", rates["troupe"], rates["queue"], "asyncio.Queue", goal=0.8)]


async def behind_queue(messages: int, measured: meter.Consuming) -> None:
    queue: asyncio.Queue[str] = asyncio.Queue(AHEAD)

    async def send() -> None:
        for _ in range(messages):
            await queue.put(meter.PAYLOAD)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        last = False
        while not last:
            await queue.get()
            await asyncio.sleep(HANDLER)
            last = measured.handled()


async def behind_mailbox(url: str, messages: int, measured: meter.Consuming) -> None:
    handed: asyncio.Queue[Delivery] = asyncio.Queue()  # bounded by the prefetch
    room = asyncio.Semaphore(AHEAD // BATCH)

    async with connected(url) as broker, asyncio.TaskGroup() as tasks:
        await broker.declare(1)
        sender = Sender()

        async def send() -> None:
            for _ in range(messages // BATCH):
                await room.acquire()
                await sender.send(broker, BATCH)

        subscription = await broker.consume(mailbox(0), handed.put_nowait)
        tasks.create_task(send())
        last = False
        count = 0
        while not last:
            delivery = await handed.get()
            await asyncio.sleep(HANDLER)
            delivery.ack()
            last = measured.handled()
            count += 1
            if count % BATCH == 0:
                room.release()
        await subscription.cancel()


async def main(mode: str, url: str, messages: int) -> None:
    measured = meter.Consuming(messages)
    await (behind_queue(messages, measured) if mode == "queue" else behind_mailbox(url, messages, measured))
    measured.report()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
