"""What every broker promises of the queues that are declared, and of those that are not."""

import asyncio

import pytest
from support.brokers import Opened, holds
from support.mailboxes import Receiver, message, queue_of, session_in

from troupe.broker.addressing import task_queue
from troupe.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from troupe.v1.envelope_pb2 import Envelope, SessionRef


async def test_declaring_again_changes_nothing(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(2)
        session = session_in(1, 2)
        receiver = Receiver()
        await broker.consume(queue_of(1), receiver)
        await broker.publish(message(1, session=session))
        await receiver.received(1)

        await broker.declare(2)
        await broker.publish(message(2, session=session))

        assert await receiver.received(2) == [1, 2]
        await holds(broker, 2, queue_of(1))


async def test_declaring_twice_at_once_changes_nothing(opened: Opened) -> None:
    async with opened() as broker:

        async def declare_and_consume(receiver: Receiver, shard: int) -> None:
            await broker.declare(2)
            await broker.consume(queue_of(shard), receiver)

        receivers = [Receiver(), Receiver()]
        async with asyncio.TaskGroup() as tasks:
            for shard, receiver in enumerate(receivers):
                tasks.create_task(declare_and_consume(receiver, shard))
        for shard, receiver in enumerate(receivers):
            await broker.publish(message(1, session=session_in(shard, 2)))
            await receiver.received(1)


async def test_another_number_of_shards_is_refused(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(4)
        await broker.publish(message(1))

        with pytest.raises(FailedPrecondition, match="made for 4 shards, not 2"):
            await broker.declare(2)


@pytest.mark.parametrize("queue", ["troupe.v1.mailbox.2", "troupe.v1.mailbox.-1", "troupe.v1.task.gpu", "other.0", ""])
async def test_a_queue_that_was_not_declared_is_not_found(opened: Opened, queue: str) -> None:
    async with opened() as broker:
        await broker.declare(2)

        with pytest.raises(NotFound, match="no queue"):
            await broker.consume(queue, Receiver())
        with pytest.raises(NotFound, match="no queue"):
            await broker.depth(queue)


async def test_nothing_can_be_published_before_the_mailboxes_are_declared(opened: Opened) -> None:
    async with opened() as broker:
        with pytest.raises(NotFound, match="declare"):
            await broker.publish(message(1))
        (outcome,) = await broker.publish_many([message(1)])
        assert isinstance(outcome, NotFound)


async def test_nothing_can_be_published_to_a_pool_that_was_not_declared(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1, ["gpu"])

        with pytest.raises(NotFound, match="declare"):
            await broker.publish(message(1), pool="cpu")


async def test_declaring_more_pools_adds_them_and_declaring_fewer_takes_none_away(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1, ["gpu"])
        receiver = Receiver()
        await broker.consume(task_queue("gpu"), receiver)
        await broker.publish(message(1), pool="gpu")

        await broker.declare(1, ["cpu"])
        await broker.declare(1)
        await broker.publish(message(2), pool="gpu")
        await broker.publish(message(3), pool="cpu")

        assert await receiver.received(2) == [1, 2]
        await holds(broker, 1, task_queue("cpu"))


@pytest.mark.parametrize("pool", ["", "agents", "Not A Name", "a.b"])
async def test_what_cannot_be_a_pool_is_refused(opened: Opened, pool: str) -> None:
    async with opened() as broker:
        with pytest.raises(InvalidArgument, match="pool"):
            await broker.declare(1, ["gpu", pool])


async def test_a_target_that_is_no_session_is_refused(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)

        with pytest.raises(InvalidArgument, match=r"session\.agent"):
            await broker.publish(Envelope(target=SessionRef(agent="Not A Name", session="s")))
