"""A program for tests to kill: publishes to a SQLite broker and says what was confirmed, as it is confirmed.

`python publishing.py FILE SHARDS PUBLISHERS EACH publish|consume|work`. It writes lines `confirmed STREAM SEQUENCE`
and, when it consumes, `acked STREAM SEQUENCE`, the latter before the ack. At `work` the messages are tasks of the pool
`gpu`; of three one is put off once (`deferred`) and one is given up (`buried`): lines that follow the deed.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

from support.brokers import letter
from support.mailboxes import message, queue_of

from troupe.broker.addressing import task_queue
from troupe.broker.port import Delivery
from troupe.broker.sqlite import SqliteBroker
from troupe.v1.envelope_pb2 import Envelope

POOL = "gpu"
DELAY = 0.05
"""Seconds that tasks are put off."""


async def main(file: str, shards: int, publishers: int, each: int, mode: str) -> None:
    async with SqliteBroker.opened(Path(file)) as broker, asyncio.TaskGroup() as tasks:
        await broker.declare(shards, [POOL])
        if mode == "consume":
            for shard in range(shards):
                await broker.consume(queue_of(shard), _settle)
        if mode == "work":
            await broker.consume(task_queue(POOL), lambda delivery: _spawn(tasks, _work(broker, delivery)))
        for publisher in range(publishers):
            tasks.create_task(_publish(broker, publisher, each, POOL if mode == "work" else ""))


async def _publish(broker: SqliteBroker, publisher: int, each: int, pool: str) -> None:
    for sequence in range(1, each + 1):
        await broker.publish(message(sequence, f"{publisher}", f"session-{publisher}", "x" * 180), pool)
        _tell("confirmed", f"{publisher}", sequence)


async def _work(broker: SqliteBroker, delivery: Delivery) -> None:
    envelope = Envelope.FromString(delivery.body)
    number = envelope.number
    if number.sequence % 3 == 0 and envelope.attempt == 0:
        await broker.defer(delivery, DELAY)
        _tell("deferred", number.stream, number.sequence)
    elif number.sequence % 3 == 1:
        await broker.dead_letter(replace(letter(envelope.id, pool=POOL), body=delivery.body))
        _tell("buried", number.stream, number.sequence)
        delivery.ack()
    else:
        _settle(delivery)


def _settle(delivery: Delivery) -> None:
    number = Envelope.FromString(delivery.body).number
    _tell("acked", number.stream, number.sequence)
    delivery.ack()


def _tell(what: str, stream: str, sequence: int) -> None:
    os.write(1, f"{what} {stream} {sequence}\n".encode())


def _spawn(tasks: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
    tasks.create_task(work)


if __name__ == "__main__":
    shards, publishers, each = map(int, sys.argv[2:5])
    asyncio.run(main(sys.argv[1], shards, publishers, each, sys.argv[5]))
