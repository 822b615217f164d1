"""Retries of 200 failures at once, by RabbitMQ's clock: near their schedule, and spread."""

import asyncio
import random
import statistics
import time

import pytest
from support.mailboxes import Receiver, message

from troupe.broker.addressing import task_queue
from troupe.broker.connect import connected
from troupe.broker.port import Broker, Delivery
from troupe.broker.retry import RetryPolicy

FAILURES = 200
WINDOW = 0.05
TRIES = 10
"""A machine that is busy with other things bunches what was spread: one quiet try tells. Without the spread all of
them bunch, always."""


@pytest.mark.parametrize("failures", [4, 5], ids=["800ms", "1600ms"])
async def test_they_come_back_in_time_and_not_together(amqp_url: str, failures: int) -> None:
    async with connected(amqp_url) as broker:
        await broker.declare(1, ["gpu"])
        for _ in range(TRIES):
            waited = await _waited(broker, failures)
            middle = statistics.median(waited)
            most = max(sum(at <= other < at + WINDOW for other in waited) for at in waited)
            if middle == pytest.approx(RetryPolicy().delay(failures, 0.5), rel=0.10) and most <= 0.3 * FAILURES:
                return
    pytest.fail(f"{most} of {FAILURES} came back within {WINDOW} s; the median was {middle:.3f} s")


async def _waited(broker: Broker, failures: int) -> list[float]:
    """Seconds until each of the failures, all at once, came back."""
    dice, policy = random.Random(failures), RetryPolicy()
    released: list[float] = []

    def take(delivery: Delivery) -> None:
        released.append(time.monotonic())
        if len(released) > FAILURES:
            delivery.ack()

    receiver = Receiver(on_delivery=take)
    subscription = await broker.consume(task_queue("gpu"), receiver, prefetch=FAILURES)
    await broker.publish_many([message(sequence) for sequence in range(1, FAILURES + 1)], "gpu")
    await receiver.received(FAILURES)
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for delivery in list(receiver.deliveries):
            tasks.create_task(broker.defer(delivery, policy.delay(failures, dice.random())))
    await receiver.received(2 * FAILURES)
    await subscription.close()
    return [at - began for at in released[FAILURES:]]
