"""Our side of the throughput benchmark: `python -m bench.broker.ours publish|publish_many|consume URL QUEUE AMOUNT`.

Everything goes through the port, by `connected(URL)`, to one mailbox. `publish` is CALLERS tasks that each await one
publish after another; `publish_many` is two of them with BATCH envelopes each; `consume` handles with a no-op and acks.
"""

import asyncio
import sys

import meter

from bench.broker.messages import Sender
from troupe.broker.addressing import mailbox
from troupe.broker.connect import connected
from troupe.broker.port import Broker, Delivery

CALLERS = 1000
BATCH = 500
PREFETCH = 1000


async def publish(broker: Broker, sending: meter.Sending) -> None:
    sender = Sender()

    async def call() -> None:
        while sending.sending():
            await broker.publish(sender.next())
            sending.confirmed()

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(call())


async def publish_many(broker: Broker, sending: meter.Sending) -> None:
    sender = Sender()

    async def call() -> None:
        while sending.sending():
            await sender.send(broker, BATCH)
            for _ in range(BATCH):
                sending.confirmed()

    async with asyncio.TaskGroup() as callers:
        for _ in range(2):
            callers.create_task(call())


async def consume(broker: Broker, measured: meter.Consuming) -> None:
    last = asyncio.Event()

    def handle(delivery: Delivery) -> None:
        delivery.ack()
        if measured.handled():
            last.set()

    subscription = await broker.consume(mailbox(0), handle, PREFETCH)
    await last.wait()
    await subscription.cancel()


async def main(mode: str, url: str, amount: float) -> None:
    async with connected(url) as broker:
        await broker.declare(1)
        measured: meter.Publishing | meter.Consuming
        if mode == "consume":
            await publish(broker, meter.Filling(int(amount)))
            measured = consuming = meter.Consuming(int(amount))
            await consume(broker, consuming)
        else:
            measured = publishing = meter.Publishing(amount)
            await (publish if mode == "publish" else publish_many)(broker, publishing)
    measured.report()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[4])))
