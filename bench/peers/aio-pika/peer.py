"""aio-pika, the client under Taskiq and FastStream: confirms and `mandatory` are its defaults.

Many publishes in flight on one channel of a robust connection, quorum queues, uvloop.
"""

import asyncio

import aio_pika
import meter
import uvloop
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

IN_FLIGHT = 64
PREFETCH = 1000
BODY = meter.PAYLOAD.encode()


async def publish(channel: AbstractChannel, queue: str, sending: meter.Sending) -> None:
    async def sender() -> None:
        while sending.sending():
            message = aio_pika.Message(BODY, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, routing_key=queue)
            sending.confirmed()

    async with asyncio.TaskGroup() as senders:
        for _ in range(IN_FLIGHT):
            senders.create_task(sender())


async def main() -> None:
    asked = meter.asked()
    async with await aio_pika.connect_robust(asked.url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue(asked.queue, durable=True, arguments={"x-queue-type": "quorum"})
        measured: meter.Publishing | meter.Consuming
        if asked.seconds:
            measured = publishing = meter.Publishing(asked.seconds)
            await publish(channel, asked.queue, publishing)
        else:
            await publish(channel, asked.queue, meter.Filling(asked.messages))
            measured = consuming = meter.Consuming(asked.messages)
            last = asyncio.Event()

            async def handle(message: AbstractIncomingMessage) -> None:
                await message.ack()
                if consuming.handled():
                    last.set()

            await channel.set_qos(prefetch_count=PREFETCH)
            tag = await queue.consume(handle)
            await last.wait()
            await queue.cancel(tag)
    measured.report()


uvloop.run(main())
