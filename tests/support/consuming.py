"""A program for tests to stop and to kill: consumes one mailbox, says what came, and acks nothing.

`python consuming.py URL SHARDS SHARD`. It writes `consuming` once it does, then a line `SEQUENCE` for each delivery."""

import asyncio
import os
import sys

from support.mailboxes import number, queue_of

from troupe.broker.connect import connected
from troupe.broker.port import Delivery


async def main(url: str, shards: int, shard: int) -> None:
    async with connected(url) as broker:
        await broker.declare(shards)
        await broker.consume(queue_of(shard), _say)
        os.write(1, b"consuming\n")
        await asyncio.Event().wait()


def _say(delivery: Delivery) -> None:
    os.write(1, f"{number(delivery)}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
