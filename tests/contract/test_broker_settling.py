"""Publishers and consumers come and go; in the end every message was settled exactly once."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest
from support.brokers import QUEUE, Opened, holds, publish
from support.mailboxes import number

from troupe.broker.memory import MemoryBroker
from troupe.broker.port import Broker, Delivery, Subscription
from troupe.v1.envelope_pb2 import Envelope


@pytest.mark.parametrize("seed", range(3))
async def test_every_message_is_settled_once(opened: Opened, seed: int) -> None:
    async with opened() as broker:
        await _check_settling(broker, random.Random(seed))


async def test_a_broker_that_loses_one_fails() -> None:
    class Forgetful(MemoryBroker):
        async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = 32) -> Subscription:
            def handle(delivery: Delivery) -> None:
                if number(delivery) == 150:
                    delivery.ack()
                else:
                    handler(delivery)

            return await super().consume(queue, handle, prefetch)

    with pytest.raises(AssertionError, match="settled"):
        await _check_settling(Forgetful(), random.Random(0))


async def test_a_broker_that_delivers_one_twice_fails() -> None:
    class Stuttering(MemoryBroker):
        async def publish(self, envelope: Envelope, pool: str = "") -> None:
            await super().publish(envelope, pool)
            if envelope.number.sequence == 150:
                await super().publish(envelope, pool)

    with pytest.raises(AssertionError, match="settled"):
        await _check_settling(Stuttering(), random.Random(0))


async def _check_settling(broker: Broker, dice: random.Random) -> None:
    """Send 4 times 200 messages while consumers take some, ack most, in any order, and leave."""
    senders, each = 4, 200
    settled: Counter[tuple[str, int]] = Counter()
    await broker.declare(1)

    def settle(delivery: Delivery) -> None:
        if delivery.acked:
            return
        delivery.ack()
        where = Envelope.FromString(delivery.body).number
        settled[where.stream, where.sequence] += 1

    async def consume_for_a_while() -> None:
        held: list[Delivery] = []
        subscription = await broker.consume(QUEUE, held.append, prefetch=dice.randint(1, 40))
        for _ in range(dice.randint(1, 10)):
            await asyncio.sleep(0.001)
            for delivery in dice.sample(held, dice.randint(0, len(held))):
                settle(delivery)
        if dice.random() < 0.5:
            await subscription.cancel()
            for delivery in dice.sample(held, len(held) // 2):
                settle(delivery)
        await subscription.close()

    async with asyncio.TaskGroup() as tasks:
        for sender in range(senders):
            tasks.create_task(publish(broker, range(1, each + 1), stream=f"sender-{sender}"))
        for _ in range(10):
            await consume_for_a_while()
    await broker.consume(QUEUE, settle)
    await holds(broker, 0)
    everything = {(f"sender-{sender}", sequence): 1 for sender in range(senders) for sequence in range(1, each + 1)}
    assert settled == everything, "each message must be settled exactly once"
