"""kill -9 of RabbitMQ, and of what it talks to, with real servers: what was confirmed arrives."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import consuming, rabbitmq
from support.brokers import QUEUE, holds, publish
from support.mailboxes import Receiver, message, queue_of

from troupe.broker.connect import connected
from troupe.broker.port import Broker, Delivery
from troupe.broker.rabbitmq.publisher import WINDOW
from troupe.v1.envelope_pb2 import Envelope

SHARDS, PUBLISHERS, EACH = 4, 50, 200


async def test_every_message_confirmed_around_a_kill_arrives_in_order() -> None:
    confirmed: dict[str, list[int]] = defaultdict(list)

    async def publishing(broker: Broker, publisher: int) -> None:
        for sequence in range(1, EACH + 1):
            await broker.publish(message(sequence, f"{publisher}", f"session-{publisher}", "x" * 180))
            confirmed[f"{publisher}"].append(sequence)

    async def killing(node: rabbitmq.Node) -> None:
        while sum(map(len, confirmed.values())) < PUBLISHERS * EACH // 3:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(node.kill)
        assert sum(map(len, confirmed.values())) < PUBLISHERS * EACH, "all was over before the kill"
        await asyncio.to_thread(node.start)

    with rabbitmq.running() as node:
        async with connected(node.url) as broker:
            await broker.declare(SHARDS)
            async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
                tasks.create_task(killing(node))
                for publisher in range(PUBLISHERS):
                    tasks.create_task(publishing(broker, publisher))

            found = await _everything(broker)

    assert set(found) == set(confirmed)
    for stream, sequences in found.items():
        first_seen = list(dict.fromkeys(sequences))
        assert first_seen == list(range(1, EACH + 1)), f"stream {stream} has a gap, or is out of order"
    repeated = sum(len(sequences) for sequences in found.values()) - PUBLISHERS * EACH
    assert repeated <= WINDOW, "more came twice than can have been in doubt"


async def test_a_restart_keeps_subscriptions_and_what_is_unacked() -> None:
    with rabbitmq.running() as node:
        async with connected(node.url) as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver)
            await publish(broker, range(1, 11))
            await receiver.received(10)
            void = list(receiver.deliveries)
            receiver.deliveries.clear()

            await asyncio.to_thread(node.stop)
            await asyncio.to_thread(node.start)
            await publish(broker, range(11, 13))

            assert sorted(await receiver.received(12)) == list(range(1, 13))
            for delivery in void:
                delivery.ack()
            await holds(broker, 12)
            receiver.ack_all()
            await holds(broker, 0)


async def test_leaving_ends_soon_when_the_server_does_not_answer() -> None:
    with rabbitmq.running() as node:
        async with connected(node.url) as broker:
            await broker.declare(1)
            await broker.consume(QUEUE, Receiver())
            node.freeze()
            began = time.monotonic()
        assert time.monotonic() - began < 15
        node.thaw()


async def test_a_stopped_consumer_loses_its_mailbox_after_the_heartbeat(amqp_url: str) -> None:
    url = f"{amqp_url}?heartbeat=1"
    with _consuming(url) as process:
        async with connected(url) as broker:
            await broker.declare(1)
            await publish(broker, range(1, 11))
            assert [await _line(process) for _ in range(10)] == [f"{sequence}" for sequence in range(1, 11)]
            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)
            assert receiver.deliveries == []

            os.kill(process.pid, signal.SIGSTOP)
            await broker.publish(message(11))

            assert sorted(await receiver.received(11)) == list(range(1, 12))
            assert all(delivery.redeliveries for delivery in receiver.deliveries[:10])
            await holds(broker, 0)


async def test_a_killed_consumer_loses_its_mailbox_at_once(amqp_url: str) -> None:
    with _consuming(amqp_url) as process:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            await publish(broker, range(1, 11))
            assert [await _line(process) for _ in range(10)] == [f"{sequence}" for sequence in range(1, 11)]
            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)

            process.kill()

            assert sorted(await receiver.received(10, within=4)) == list(range(1, 11))


async def test_a_loop_that_was_stuck_connects_again(amqp_url: str) -> None:
    async with connected(f"{amqp_url}?heartbeat=1") as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        await broker.publish(message(1))
        await receiver.received(1)

        time.sleep(5)  # noqa: ASYNC251 - the fault itself: the server closes the connection meanwhile
        await broker.publish(message(2))

        assert sorted((await receiver.received(3))[1:]) == [1, 2]


@contextmanager
def _consuming(url: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that consumes mailbox 0."""
    paths = os.pathsep.join([str(Path(consuming.__file__).parents[1]), *sys.path])
    program = [sys.executable, consuming.__file__, url, "1", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"consuming\n"
            yield process
        finally:
            process.kill()


async def _line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    return line.decode().strip()


async def _everything(broker: Broker) -> dict[str, list[int]]:
    """What comes from all mailboxes until they are empty: sequences by stream."""
    found: dict[str, list[int]] = defaultdict(list)

    def take(delivery: Delivery) -> None:
        where = Envelope.FromString(delivery.body).number
        found[where.stream].append(where.sequence)
        delivery.ack()

    for shard in range(SHARDS):
        await broker.consume(queue_of(shard), take)
    for shard in range(SHARDS):
        await holds(broker, 0, queue_of(shard))
    return found
