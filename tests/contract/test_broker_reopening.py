"""What every durable broker promises of what was confirmed, when it is opened again; and of one that was left."""

import time

import pytest
from support.brokers import QUEUE, Opened, holds, letter, letters, publish
from support.mailboxes import Receiver, message, number

from troupe.broker.addressing import task_queue
from troupe.broker.port import Delivery, NotSent
from troupe.chassis.errors import FailedPrecondition
from troupe.v1.envelope_pb2 import Envelope


async def test_nothing_confirmed_is_lost_and_nothing_acked_comes_again(reopened: Opened) -> None:
    async with reopened() as broker:
        await broker.declare(1)
        await publish(broker, range(1, 101))
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        await receiver.received(32)
        for delivery in receiver.deliveries[10:20]:
            delivery.ack()

    async with reopened() as broker:
        await broker.declare(1)
        await broker.publish(message(101))
        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)

        came = await receiver.received(91)
        assert sorted(came) == [*range(1, 11), *range(21, 102)]
        if reopened.backend.ordered_requeue:
            assert came == sorted(came)
        again = {number(delivery): delivery.redeliveries for delivery in receiver.deliveries}
        assert all(again[sequence] >= 1 for sequence in [*range(1, 11), *range(21, 33)])
        assert again[101] == 0
        await reopened.quiet()
        assert len(receiver.deliveries) == 91


async def test_depth_survives(reopened: Opened) -> None:
    async with reopened() as broker:
        await broker.declare(1)
        await publish(broker, range(1, 4))
        before = await broker.depth(QUEUE)

    async with reopened() as broker:
        await broker.declare(1)

        await holds(broker, 3)
        assert await broker.depth(QUEUE) == before


async def test_the_number_of_shards_is_remembered(reopened: Opened) -> None:
    async with reopened() as broker:
        await broker.declare(4)

    async with reopened() as broker:
        with pytest.raises(FailedPrecondition, match="made for 4 shards, not 8"):
            await broker.declare(8)
        await broker.declare(4)


async def test_dead_letters_survive_and_removed_ones_do_not_come_back(reopened: Opened) -> None:
    kept = [letter(), letter(), letter(pool="gpu")]
    async with reopened() as broker:
        await broker.declare(1, ["gpu"])
        for each in kept:
            await broker.dead_letter(each)
        async with broker.dead_letters() as held:
            await (await anext(held)).remove()

    async with reopened() as broker:
        await broker.declare(1, ["gpu"])
        assert await letters(broker) == kept[1:2]
        assert await letters(broker, "gpu") == kept[2:]


async def test_tasks_survive(reopened: Opened) -> None:
    async with reopened() as broker:
        await broker.declare(1, ["gpu"])
        await publish(broker, range(1, 4), pool="gpu")

    async with reopened() as broker:
        await broker.declare(1, ["cpu", "gpu"])
        receiver = Receiver()
        await broker.consume(task_queue("gpu"), receiver)

        assert await receiver.received(3) == [1, 2, 3]
        await holds(broker, 0, task_queue("cpu"))


async def test_deferred_messages_survive_and_keep_their_time(reopened: Opened) -> None:
    async with reopened() as broker:
        await broker.declare(1, ["gpu"])
        receiver = Receiver()
        await broker.consume(task_queue("gpu"), receiver)
        await broker.publish(message(1), pool="gpu")
        await receiver.received(1)
        before = time.monotonic()
        await broker.defer(receiver.deliveries[0], 0.4)

    async with reopened() as broker:
        await broker.declare(1, ["gpu"])
        receiver = Receiver()
        await broker.consume(task_queue("gpu"), receiver)

        assert await receiver.received(1) == [1]
        assert time.monotonic() - before >= 0.4 * (1 - reopened.backend.early)
        assert Envelope.FromString(receiver.deliveries[0].body).attempt == 1


async def test_a_broker_that_was_left_takes_no_message(reopened: Opened) -> None:
    async with reopened() as broker:
        await broker.declare(1)

    with pytest.raises(NotSent):
        await broker.publish(message(1))
    (outcome,) = await broker.publish_many([message(1)])
    assert isinstance(outcome, NotSent)


async def test_a_broker_that_was_left_delivers_nothing_more(reopened: Opened) -> None:
    async with reopened() as broker:
        await broker.declare(1)
        await publish(broker, range(1, 4))
        first, late = Receiver(), Receiver()
        subscription = await broker.consume(QUEUE, first)
        await first.received(3)
        await subscription.close()
        await broker.consume(QUEUE, late)
    came = len(late.deliveries)
    await reopened.quiet()

    assert len(late.deliveries) == came


async def test_an_ack_after_the_broker_was_left_comes_too_late(reopened: Opened) -> None:
    async with reopened() as broker:
        await broker.declare(1)
        await broker.publish(message(1))
        late = Receiver()
        subscription = await broker.consume(QUEUE, late)
        await late.received(1)
    late.ack_all()
    await subscription.close()

    async with reopened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)

        assert await receiver.received(1) == [1]


async def test_what_the_body_raises_comes_out_as_it_is(opened: Opened) -> None:
    with pytest.raises(ZeroDivisionError):
        async with opened() as broker:
            await broker.declare(1)
            await broker.consume(QUEUE, Receiver(on_delivery=Delivery.ack))
            await broker.publish(message(1))
            raise ZeroDivisionError
