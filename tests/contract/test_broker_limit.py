"""What every broker promises where a subscription may hold fewer deliveries from now on, or more."""

import asyncio

import pytest
from support.brokers import QUEUE, Opened, holds, publish
from support.mailboxes import Receiver, message

from troupe.broker.port import Delivery


async def test_fewer_may_be_unacked_and_those_that_are_stay_so(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        subscription = await broker.consume(QUEUE, receiver, prefetch=8)
        await publish(broker, range(1, 31))
        await receiver.received(8)

        # When it may hold two
        changing = asyncio.create_task(subscription.limit(2))
        await opened.quiet()
        assert len(receiver.deliveries) == 8, "nothing comes beside what was unacked"
        for delivery in receiver.deliveries[:8]:
            delivery.ack()
        await changing
        await opened.quiet()

        # Then it gets two, and two more for two acks, in order, each for the first time
        assert receiver.numbers == list(range(1, 11))
        for delivery in receiver.deliveries[8:10]:
            delivery.ack()
        await receiver.received(12)
        await opened.quiet()
        assert receiver.numbers == list(range(1, 13))
        assert not any(delivery.redeliveries for delivery in receiver.deliveries)
        await holds(broker, 20)


async def test_there_are_never_more_than_the_old_number_when_it_falls(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        subscription = await broker.consume(QUEUE, receiver, prefetch=8)
        await publish(broker, range(1, 61))
        await receiver.received(8)
        changing = asyncio.create_task(subscription.limit(4))

        acked, most = 0, 0
        while acked < 50:
            await opened.quiet()
            most = max(most, len(receiver.deliveries) - acked)
            receiver.deliveries[acked].ack()
            acked += 1

        await changing
        assert most == 8
        await opened.quiet()
        assert len(receiver.deliveries) - acked == 4
        assert receiver.numbers == list(range(1, 55))


async def test_more_may_be_unacked(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        subscription = await broker.consume(QUEUE, receiver, prefetch=2)
        await publish(broker, range(1, 31))
        await receiver.received(2)

        await subscription.limit(8)

        await receiver.received(8)
        await opened.quiet()
        assert len(receiver.deliveries) <= 10
        for delivery in receiver.deliveries[:2]:
            delivery.ack()
        await opened.quiet()
        assert len(receiver.deliveries) == 10
        assert receiver.numbers == list(range(1, 11))


async def test_what_is_on_its_way_meanwhile_comes_once_and_in_order(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        await broker.publish_many([message(number) for number in range(1, 1001)])
        receiver = Receiver(_ack_soon)
        subscription = await broker.consume(QUEUE, receiver, prefetch=200)

        for prefetch in (300, 400, 500):
            await subscription.limit(prefetch)

        await receiver.received(1000)
        assert receiver.numbers == list(range(1, 1001))
        assert not any(delivery.redeliveries for delivery in receiver.deliveries)
        await holds(broker, 0)


@pytest.mark.parametrize("ends", ["cancel", "close"])
async def test_it_ends_while_it_changes(opened: Opened, ends: str) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        subscription = await broker.consume(QUEUE, receiver, prefetch=4)
        await publish(broker, range(1, 11))
        await receiver.received(4)
        changing = asyncio.create_task(subscription.limit(1))
        await opened.quiet()

        await getattr(subscription, ends)()
        async with asyncio.timeout(10):
            await changing

        for delivery in receiver.deliveries:
            delivery.ack()
        await opened.quiet()
        assert receiver.numbers == [1, 2, 3, 4]
        if ends == "cancel":
            await subscription.close()
        await holds(broker, 6 if ends == "cancel" else 10)


async def test_the_last_of_several_holds(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        subscription = await broker.consume(QUEUE, receiver, prefetch=8)
        async with asyncio.timeout(10):
            await asyncio.gather(*(subscription.limit(prefetch) for prefetch in (4, 2, 8, 1)))

        await publish(broker, range(1, 5))
        await receiver.received(1)
        await opened.quiet()
        assert receiver.numbers == [1]


def _ack_soon(delivery: Delivery) -> None:
    asyncio.get_running_loop().call_later(0.001, delivery.ack)
