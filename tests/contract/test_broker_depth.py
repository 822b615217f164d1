"""What every broker says of how full a queue is."""

from pathlib import Path

import pytest
from support.brokers import BACKENDS, QUEUE, Opened, holds, publish
from support.mailboxes import Receiver, message, queue_of, session_in

from troupe.broker.addressing import task_queue


@pytest.fixture(params=[name for name, backend in BACKENDS.items() if backend.exact_depth])
def exact(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """As `opened`, those that know at once what a queue holds."""
    return Opened(BACKENDS[request.param], tmp_path)


async def test_depth_counts_what_waits_and_what_is_unacked(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        await holds(broker, 0)
        await publish(broker, range(1, 11))
        receiver = Receiver()
        await broker.consume(QUEUE, receiver, prefetch=4)
        await receiver.received(4)
        await holds(broker, 10)

        receiver.ack_all()
        await receiver.received(8)

        await holds(broker, 6)


async def test_each_queue_has_its_own_depth(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(2, ["gpu"])
        await publish(broker, range(1, 4), session=session_in(0, 2))
        await publish(broker, range(1, 3), session=session_in(1, 2))
        await broker.publish(message(1), pool="gpu")

        for queue, messages in ((queue_of(0), 3), (queue_of(1), 2), (task_queue("gpu"), 1)):
            await holds(broker, messages, queue)


async def test_an_empty_queue_has_no_oldest_message(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        await publish(broker, range(1, 4))
        await receiver.received(3)

        receiver.ack_all()
        await holds(broker, 0)

        assert (await broker.depth(QUEUE)).oldest is None


async def test_depth_is_known_at_once(exact: Opened) -> None:
    async with exact() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        for sequence in range(1, 4):
            await broker.publish(message(sequence))
            assert (await broker.depth(QUEUE)).messages == sequence
        await receiver.received(3)

        for left, delivery in zip((2, 1, 0), receiver.deliveries, strict=True):
            delivery.ack()
            assert (await broker.depth(QUEUE)).messages == left


async def test_oldest_is_the_first_message_that_is_not_acked(exact: Opened) -> None:
    async with exact() as broker:
        await broker.declare(1)
        assert (await broker.depth(QUEUE)).oldest is None
        await publish(broker, range(1, 4))
        waiting = (await broker.depth(QUEUE)).oldest
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        await receiver.received(3)
        first, second, third = receiver.deliveries
        assert waiting == first.published
        assert (await broker.depth(QUEUE)).oldest == first.published

        second.ack()
        assert (await broker.depth(QUEUE)).oldest == first.published
        first.ack()
        assert (await broker.depth(QUEUE)).oldest == third.published
        third.ack()

        assert (await broker.depth(QUEUE)).oldest is None
