"""Acks wait for others, but no room that a consumer needs waits for them."""

import pytest
from support.brokers import QUEUE
from support.mailboxes import Receiver, message

from troupe.broker.connect import connected
from troupe.broker.port import Delivery
from troupe.broker.rabbitmq import telling

COUNT, PREFETCH = 60, 4


async def test_what_holds_its_place_for_long_does_not_slow_the_others(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "ACK_DELAY", 0.5)  # waited for with each, it would take longer than `received` does
    async with connected(amqp_url) as broker:
        await broker.declare(1)
        await broker.publish_many([message(sequence) for sequence in range(1, COUNT + 1)])

        def take(delivery: Delivery) -> None:
            if len(receiver.deliveries) >= PREFETCH:  # those before run on
                delivery.ack()

        receiver = Receiver(on_delivery=take)
        await broker.consume(QUEUE, receiver, PREFETCH)

        assert await receiver.received(COUNT) == list(range(1, COUNT + 1))
