"""Bare pika: its AsyncioConnection in a loop of callbacks, with nothing around it. The line that ours must stay near.

Confirms with a window of messages in flight, `mandatory`, persistent, to a quorum queue; consuming with a prefetch and
an ack for each message.
"""

import asyncio

import meter
import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.spec import Basic

WINDOW = 1000
PREFETCH = 1000
BODY = meter.PAYLOAD.encode()
PERSISTENT = pika.BasicProperties(delivery_mode=2)


async def opened(url: str, queue: str) -> Channel:
    ready: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    def declare(channel: Channel) -> None:
        channel.queue_declare(
            queue, durable=True, arguments={"x-queue-type": "quorum"}, callback=lambda _: ready.set_result(channel)
        )

    AsyncioConnection(
        pika.URLParameters(url),
        on_open_callback=lambda connection: connection.channel(on_open_callback=declare),
        on_open_error_callback=lambda _, error: ready.set_exception(error),
    )
    return await ready


async def publish(channel: Channel, queue: str, sending: meter.Sending) -> None:
    """Keep the window full; return when all is confirmed."""
    loop = asyncio.get_running_loop()
    selected: asyncio.Future[None] = loop.create_future()
    done: asyncio.Future[None] = loop.create_future()
    sent = acked = 0

    def fill() -> None:
        nonlocal sent
        while sent - acked < WINDOW and sending.sending():
            channel.basic_publish("", queue, BODY, PERSISTENT, mandatory=True)
            sent += 1
        if acked == sent:
            done.set_result(None)

    def confirmed(frame: pika.frame.Method) -> None:
        nonlocal acked
        if not isinstance(frame.method, Basic.Ack):
            done.set_exception(RuntimeError("a message was refused"))
            return
        upto = frame.method.delivery_tag if frame.method.multiple else acked + 1
        while acked < upto:
            acked += 1
            sending.confirmed()
        fill()

    channel.add_on_return_callback(lambda *_: done.set_exception(RuntimeError("a message was returned")))
    channel.confirm_delivery(confirmed, callback=lambda _: selected.set_result(None))
    await selected
    fill()
    await done


async def consume(channel: Channel, queue: str, measured: meter.Consuming) -> None:
    last: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def handle(channel: Channel, method: Basic.Deliver, _: pika.BasicProperties, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        if measured.handled():
            last.set_result(None)

    channel.basic_qos(prefetch_count=PREFETCH, callback=lambda _: channel.basic_consume(queue, handle))
    await last


async def main() -> None:
    asked = meter.asked()
    channel = await opened(asked.url, asked.queue)
    measured: meter.Publishing | meter.Consuming
    if asked.seconds:
        measured = publishing = meter.Publishing(asked.seconds)
        await publish(channel, asked.queue, publishing)
    else:
        await publish(channel, asked.queue, meter.Filling(asked.messages))
        measured = consuming = meter.Consuming(asked.messages)
        await consume(channel, asked.queue, consuming)
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    channel.connection.add_on_close_callback(lambda *_: closed.set_result(None))
    channel.connection.close()
    await closed
    measured.report()


asyncio.run(main())
