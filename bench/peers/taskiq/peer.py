"""Taskiq over aio-pika: quorum queues and confirms (its defaults), many `kiq` in flight, uvloop.

The receiver runs in this process, by Taskiq's own `run_receiver_task`, and does not check the types of arguments.
Messages are acked when a result would have been saved, its default.
"""

import asyncio
import logging

import meter
import uvloop
from taskiq.api import run_receiver_task
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

IN_FLIGHT = 64
PREFETCH = 256
TASKS = 256
ACKS_ARE_OUT = 0.5
"""Seconds after the last message, whose ack follows its handler."""


async def main() -> None:
    asked = meter.asked()
    broker = AioPikaBroker(asked.url, qos=PREFETCH).with_queue(Queue(name=asked.queue, type=QueueType.QUORUM))
    measured: meter.Publishing | meter.Consuming
    last = asyncio.Event()
    consuming = meter.Consuming(asked.messages)

    @broker.task(task_name="work")
    async def work(text: str) -> None:
        if consuming.handled():
            last.set()

    async def sender(sending: meter.Sending) -> None:
        while sending.sending():
            await work.kiq(meter.PAYLOAD)
            sending.confirmed()

    async def send(sending: meter.Sending) -> None:
        async with asyncio.TaskGroup() as senders:
            for _ in range(IN_FLIGHT):
                senders.create_task(sender(sending))

    broker.is_worker_process = asked.messages > 0
    await broker.startup()
    if asked.seconds:
        measured = publishing = meter.Publishing(asked.seconds)
        await send(publishing)
    else:
        await send(meter.Filling(asked.messages))
        measured = consuming
        receiver = asyncio.create_task(
            run_receiver_task(broker, validate_params=False, max_async_tasks=TASKS, max_prefetch=PREFETCH)
        )
        await last.wait()
        await asyncio.sleep(ACKS_ARE_OUT)
        receiver.cancel()
        await asyncio.wait([receiver])
    await broker.shutdown()
    measured.report()


logging.disable(logging.CRITICAL)
uvloop.run(main())
