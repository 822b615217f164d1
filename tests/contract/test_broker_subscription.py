"""What every broker promises those who consume: a bound, one consumer to a mailbox, and what becomes of the unacked."""

import pytest
from support.brokers import QUEUE, Opened, holds, publish
from support.mailboxes import Receiver, message, number, queue_of

from troupe.chassis.errors import FailedPrecondition


async def test_no_more_than_the_prefetch_are_unacked(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver, prefetch=4)

        await publish(broker, range(1, 11))
        await receiver.received(4)
        await opened.quiet()

        assert receiver.numbers == [1, 2, 3, 4]


async def test_an_ack_makes_room_for_one(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver, prefetch=4)
        await publish(broker, range(1, 11))
        await receiver.received(4)

        receiver.deliveries[2].ack()
        await receiver.received(5)
        await opened.quiet()

        assert receiver.numbers == [1, 2, 3, 4, 5]


async def test_acking_twice_is_a_defect(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        await broker.publish(message(1))
        await receiver.received(1)
        receiver.deliveries[0].ack()

        with pytest.raises(RuntimeError, match="acked twice"):
            receiver.deliveries[0].ack()

        await holds(broker, 0)


async def test_a_mailbox_has_one_consumer(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(2)
        await broker.consume(QUEUE, Receiver())

        with pytest.raises(FailedPrecondition, match="has a consumer already"):
            await broker.consume(QUEUE, Receiver())

        await broker.consume(queue_of(1), Receiver())


async def test_what_was_unacked_at_close_comes_again_in_its_old_place_and_says_so(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        await publish(broker, range(1, 11))
        first, second = Receiver(), Receiver()
        subscription = await broker.consume(QUEUE, first, prefetch=5)
        await first.received(5)
        first.deliveries[0].ack()
        first.deliveries[2].ack()
        await first.received(7)

        await subscription.close()
        await broker.consume(QUEUE, second)

        came = await second.received(8)
        assert sorted(came) == [2, 4, 5, 6, 7, 8, 9, 10]
        assert {number(delivery) for delivery in second.deliveries if delivery.redeliveries == 1} == {2, 4, 5, 6, 7}
        assert {number(delivery) for delivery in second.deliveries if delivery.redeliveries == 0} == {8, 9, 10}
        if opened.backend.ordered_requeue:
            assert came == sorted(came)


async def test_redeliveries_are_counted(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        await broker.publish(message(1))
        for times in range(4):
            receiver = Receiver()
            subscription = await broker.consume(QUEUE, receiver)
            await receiver.received(1)
            assert receiver.deliveries[0].redeliveries == times
            await subscription.close()


async def test_a_cancelled_subscription_delivers_no_more_and_lets_its_deliveries_be_acked(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        subscription = await broker.consume(QUEUE, receiver, prefetch=2)
        await publish(broker, range(1, 6))
        await receiver.received(2)

        await subscription.cancel()
        receiver.ack_all()
        await opened.quiet()

        assert receiver.numbers == [1, 2]
        await holds(broker, 3)


async def test_after_cancel_and_close_the_rest_goes_to_the_next_consumer(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        first, second = Receiver(), Receiver()
        subscription = await broker.consume(QUEUE, first, prefetch=2)
        await publish(broker, range(1, 6))
        await first.received(2)

        await subscription.cancel()
        first.deliveries[0].ack()
        await subscription.close()
        await broker.consume(QUEUE, second)

        assert sorted(await second.received(4)) == [2, 3, 4, 5]


async def test_an_ack_of_a_void_delivery_does_nothing(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        first, second = Receiver(), Receiver()
        subscription = await broker.consume(QUEUE, first)
        await broker.publish(message(1))
        await first.received(1)
        await subscription.close()

        first.ack_all()
        await broker.consume(QUEUE, second)

        assert await second.received(1) == [1]
        await opened.quiet()
        await holds(broker, 1)


async def test_closing_twice_changes_nothing(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        await broker.publish(message(1))
        first, second = Receiver(), Receiver()
        closed = await broker.consume(QUEUE, first)
        await first.received(1)
        await closed.close()
        await broker.consume(QUEUE, second)
        await second.received(1)

        await closed.close()
        await broker.publish(message(2))

        assert await second.received(2) == [1, 2]
