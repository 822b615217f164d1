"""Consuming from RabbitMQ: room that a consumer needs waits for no ack, and what is cancelled leaves nothing behind."""

import asyncio

import pytest
from support.brokers import QUEUE
from support.mailboxes import Receiver, message

from troupe.broker.connect import connected
from troupe.broker.port import Delivery
from troupe.broker.rabbitmq import telling
from troupe.broker.rabbitmq.broker import RabbitmqBroker
from troupe.broker.rabbitmq.link import Channel
from troupe.broker.rabbitmq.subscription import Hold

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


async def test_one_that_is_cancelled_as_it_subscribes_leaves_no_consumer(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(amqp_url) as broker:
        await broker.declare(1)
        subscribed = Hold.limit

        async def cancelled(self: Hold, prefetch: int) -> None:
            consuming.cancel()
            await subscribed(self, prefetch)

        with monkeypatch.context() as patched:
            patched.setattr(Hold, "limit", cancelled)
            consuming = asyncio.create_task(broker.consume(QUEUE, Receiver()))
            with pytest.raises(asyncio.CancelledError):
                await consuming

        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)
        await broker.publish(message(1))
        assert await receiver.received(1) == [1]


async def test_a_channel_whose_opening_is_cancelled_is_closed(amqp_url: str) -> None:
    async with connected(amqp_url) as broker:
        assert isinstance(broker, RabbitmqBroker)
        link = await broker._consuming.link()
        opening = asyncio.create_task(Channel.opened(link))
        await asyncio.sleep(0)

        opening.cancel()

        with pytest.raises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(10):
            while link._channels:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(0.01)
