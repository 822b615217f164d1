"""FastStream over aio-pika: quorum queues, confirms and `mandatory` (its defaults), persistent messages, many publishes
in flight, uvloop as its own command runs it.

It does not check the types of arguments (`apply_types=False`), and acks after the handler.
"""

import asyncio

import meter
import uvloop
from faststream import AckPolicy
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

IN_FLIGHT = 64
PREFETCH = 256
ACKS_ARE_OUT = 0.5
"""Seconds after the last message, whose ack follows its handler."""


async def main() -> None:
    asked = meter.asked()
    broker = RabbitBroker(asked.url, apply_types=False, logger=None, default_channel=Channel(prefetch_count=PREFETCH))
    queue = RabbitQueue(asked.queue, queue_type=QueueType.QUORUM, durable=True)
    measured: meter.Publishing | meter.Consuming
    last = asyncio.Event()

    async def sender(sending: meter.Sending) -> None:
        while sending.sending():
            await broker.publish(meter.PAYLOAD, queue, persist=True)
            sending.confirmed()

    async def send(sending: meter.Sending) -> None:
        async with asyncio.TaskGroup() as senders:
            for _ in range(IN_FLIGHT):
                senders.create_task(sender(sending))

    await broker.connect()
    await broker.declare_queue(queue)
    if asked.seconds:
        measured = publishing = meter.Publishing(asked.seconds)
        await send(publishing)
    else:
        await send(meter.Filling(asked.messages))
        measured = consuming = meter.Consuming(asked.messages)

        @broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)
        async def work(text: str) -> None:
            if consuming.handled():
                last.set()

        await broker.start()
        await last.wait()
        await asyncio.sleep(ACKS_ARE_OUT)
    await broker.stop()
    measured.report()


uvloop.run(main())
