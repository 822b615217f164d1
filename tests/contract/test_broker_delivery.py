"""What every broker promises of a mailbox: a confirmed message is delivered, as it was sent, in order."""

import asyncio

import pytest
from support.brokers import QUEUE, Opened, publish
from support.mailboxes import Receiver, message, queue_of, session_in

from troupe.broker.port import Delivery
from troupe.broker.sqlite_box import WINDOW
from troupe.chassis.errors import InvalidArgument
from troupe.v1.envelope_pb2 import Envelope, SessionRef


async def test_a_confirmed_message_is_delivered_as_it_was_sent(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)

        await broker.publish(message(1, text="hello"))
        await receiver.received(1)

        (delivery,) = receiver.deliveries
        assert Envelope.FromString(delivery.body) == message(1, text="hello")
        assert delivery.queue == QUEUE
        assert delivery.redeliveries == 0


async def test_delivery_says_when_the_message_was_confirmed(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)

        await publish(broker, range(1, 3))
        await receiver.received(2)

        first, second = receiver.deliveries
        assert 1.7e9 < first.published <= second.published


@pytest.mark.parametrize("count", [10, 3 * WINDOW + 7])
async def test_messages_published_before_anyone_consumes_come_in_order(opened: Opened, count: int) -> None:
    async with opened() as broker:
        await broker.declare(1)
        await publish(broker, range(1, count + 1))
        receiver = Receiver(on_delivery=Delivery.ack)

        await broker.consume(QUEUE, receiver)

        assert await receiver.received(count) == list(range(1, count + 1))


async def test_messages_published_while_others_are_consumed_come_in_order(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        count = 5 * WINDOW
        await publish(broker, range(1, count // 2))
        receiver = Receiver(on_delivery=Delivery.ack)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish(broker, range(count // 2, count + 1)))
            await broker.consume(QUEUE, receiver, prefetch=3)

        assert await receiver.received(count) == list(range(1, count + 1))


async def test_publishes_that_do_not_wait_for_each_other_keep_their_order(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)

        async with asyncio.TaskGroup() as tasks:
            for sequence in range(1, 501):
                tasks.create_task(broker.publish(message(sequence)))

        assert await receiver.received(500) == list(range(1, 501))


async def test_a_publisher_in_a_loop_lets_the_consumer_work(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)

        async with asyncio.timeout(20):
            sequence = 0
            while not receiver.deliveries:
                sequence += 1
                await broker.publish(message(sequence))


async def test_each_message_comes_out_of_its_sessions_mailbox_only(opened: Opened) -> None:
    async with opened() as broker:
        shards = 32
        await broker.declare(shards)
        receivers = [Receiver(on_delivery=Delivery.ack) for _ in range(shards)]
        for shard, receiver in enumerate(receivers):
            await broker.consume(queue_of(shard), receiver)

        async with asyncio.TaskGroup() as tasks:
            for shard in range(shards):
                tasks.create_task(publish(broker, range(1, 11), session=session_in(shard, shards)))

        for receiver in receivers:
            assert await receiver.received(10) == list(range(1, 11))


async def test_a_publisher_cancelled_before_the_confirm_may_have_sent(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        publisher = asyncio.create_task(broker.publish(message(1)))
        await asyncio.sleep(0)

        publisher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publisher
        await broker.publish(message(2))

        assert (await receiver.received_last(2)) in ([2], [1, 2])


class TestPublishingMany:
    async def test_they_come_in_order_and_each_is_confirmed(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)

            outcomes = await broker.publish_many([message(sequence) for sequence in range(1, 501)])

            assert list(outcomes) == [None] * 500
            assert await receiver.received(500) == list(range(1, 501))

    async def test_their_order_among_other_publishes_is_that_of_the_calls(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(broker.publish(message(1)))
                tasks.create_task(broker.publish_many([message(2), message(3)]))
                tasks.create_task(broker.publish(message(4)))
                tasks.create_task(broker.publish_many([message(5)]))

            assert await receiver.received(5) == [1, 2, 3, 4, 5]

    async def test_one_bad_target_is_refused_among_good_ones(self, opened: Opened) -> None:
        bad = Envelope(target=SessionRef(agent="Not A Name", session="s"))
        async with opened() as broker:
            await broker.declare(2)
            receivers = [Receiver(), Receiver()]
            for shard, receiver in enumerate(receivers):
                await broker.consume(queue_of(shard), receiver)
            good = [message(1, session=session_in(shard, 2)) for shard in range(2)]

            first, second, third = await broker.publish_many([good[0], bad, good[1]])

            assert (first, third) == (None, None)
            assert isinstance(second, InvalidArgument)
            for receiver in receivers:
                assert await receiver.received(1) == [1]

    async def test_none_is_nothing(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1)

            assert list(await broker.publish_many([])) == []
