"""A program for tests to kill: publishes to a SQLite broker and says what was confirmed, as it is confirmed.

`python publishing.py FILE SHARDS PUBLISHERS EACH publish|consume`. It writes lines `confirmed STREAM SEQUENCE`
and, when it consumes, `acked STREAM SEQUENCE`, the latter before the ack.
"""

import asyncio
import os
import sys
from pathlib import Path

from support.mailboxes import message, queue_of

from troupe.broker.port import Delivery
from troupe.broker.sqlite import SqliteBroker
from troupe.v1.envelope_pb2 import Envelope


async def main(file: str, shards: int, publishers: int, each: int, *, consume: bool) -> None:
    async with SqliteBroker.opened(Path(file)) as broker:
        await broker.declare(shards)
        if consume:
            for shard in range(shards):
                await broker.consume(queue_of(shard), _settle)
        async with asyncio.TaskGroup() as tasks:
            for publisher in range(publishers):
                tasks.create_task(_publish(broker, publisher, each))


async def _publish(broker: SqliteBroker, publisher: int, each: int) -> None:
    for sequence in range(1, each + 1):
        await broker.publish(message(sequence, f"{publisher}", f"session-{publisher}", "x" * 180))
        os.write(1, f"confirmed {publisher} {sequence}\n".encode())


def _settle(delivery: Delivery) -> None:
    number = Envelope.FromString(delivery.body).number
    os.write(1, f"acked {number.stream} {number.sequence}\n".encode())
    delivery.ack()


if __name__ == "__main__":
    shards, publishers, each = map(int, sys.argv[2:5])
    asyncio.run(main(sys.argv[1], shards, publishers, each, consume=sys.argv[5] == "consume"))
