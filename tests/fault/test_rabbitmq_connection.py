"""Connections to RabbitMQ that are cut, stalled, half-closed or slow: publishers wait or fail clearly, consumers come
back, and what was confirmed arrives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from support import proxy, rabbitmq, raw_amqp
from support.brokers import QUEUE, holds
from support.mailboxes import Receiver, message, queue_of, session_in

from troupe.broker.connect import connected
from troupe.broker.port import Broker, Delivery, NotSent
from troupe.broker.rabbitmq import topology
from troupe.broker.rabbitmq.broker import RabbitmqBroker
from troupe.broker.rabbitmq.parcel import Parcel
from troupe.chassis.errors import Unavailable

COUNT = 600


@asynccontextmanager
async def _by_way_of_a_proxy(url: str, shards: int = 1) -> AsyncIterator[tuple[proxy.Proxy, Broker]]:
    """A broker whose connections a test can spoil. Heartbeats of 1 s: what they find, they find sooner."""
    async with proxy.before(url) as way, connected(f"{way.url(url)}?heartbeat=1") as broker:
        await broker.declare(shards)
        yield way, broker


async def _publish_all(broker: Broker) -> None:
    """COUNT messages from one caller that does not wait in between."""
    async with asyncio.TaskGroup() as tasks:
        for sequence in range(1, COUNT + 1):
            tasks.create_task(broker.publish(message(sequence, text="x" * 500)))


@pytest.mark.parametrize("times", [1, 4])
async def test_cut_connections_lose_nothing(amqp_url: str, times: int) -> None:
    async with _by_way_of_a_proxy(amqp_url) as (way, broker):
        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)
        each = COUNT // times

        async with asyncio.timeout(40):
            for start in range(1, COUNT, each):
                way.stall(to_client=False)  # what is written now is lost with the connection
                numbers = range(start, start + each)
                publishing = asyncio.create_task(broker.publish_many([message(number) for number in numbers]))
                await asyncio.sleep(0.02)
                assert not publishing.done()
                way.cut()
                way.heal()
                assert list(await publishing) == [None] * each
        await receiver.received_all(range(1, COUNT + 1))
        await holds(broker, 0)

        assert way.accepted >= 2 + times


async def test_what_comes_again_over_a_new_channel_says_so_and_voids_what_came_before(amqp_url: str) -> None:
    async with _by_way_of_a_proxy(amqp_url) as (way, broker):
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        await broker.publish(message(1))
        await receiver.received(1)

        way.cut()
        await receiver.received(2)

        first, again = receiver.deliveries
        assert again.channel > first.channel
        assert again.redeliveries > 0
        first.ack()
        await broker.publish(message(2))
        await receiver.received(3)
        await holds(broker, 2)
        receiver.ack_all()
        await holds(broker, 0)


async def test_connections_that_pass_nothing_are_replaced(amqp_url: str) -> None:
    """All kinds at once: most of the time goes by until the heartbeats are missed."""
    spoiled: dict[str, Callable[[proxy.Proxy], None]] = {
        "half-closed": lambda way: way.half_close(),
        "stalled": lambda way: way.stall(),
        "stalled to the server": lambda way: way.stall(to_client=False),
        "stalled to the client": lambda way: way.stall(to_server=False),
    }

    async def check(shard: int, spoil: Callable[[proxy.Proxy], None]) -> None:
        session = session_in(shard, len(spoiled))
        async with _by_way_of_a_proxy(amqp_url, shards=len(spoiled)) as (way, broker):
            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(queue_of(shard), receiver)
            await broker.publish(message(1, session=session))
            await receiver.received(1)

            spoil(way)
            publishing = asyncio.create_task(broker.publish(message(2, session=session)))
            while way.accepted < 4:  # both are given up, and tried again
                await asyncio.sleep(0.01)
            way.heal()
            await publishing
            await receiver.received_last(2)
            await holds(broker, 0, queue_of(shard))

    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        for shard, spoil in enumerate(spoiled.values()):
            tasks.create_task(check(shard, spoil))


async def test_a_slow_connection_is_only_slow(amqp_url: str) -> None:
    async with _by_way_of_a_proxy(amqp_url) as (way, broker):
        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)

        way.slow(bytes_per_second=400_000, delay=0.02)
        async with asyncio.timeout(30):
            await _publish_all(broker)

        assert await receiver.received(COUNT) == list(range(1, COUNT + 1))
        assert way.accepted == 2


async def test_a_publisher_waits_for_the_connection_in_its_own_deadline(amqp_url: str) -> None:
    async with _by_way_of_a_proxy(amqp_url) as (way, broker):
        await broker.publish(message(1))
        way.refuse()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await broker.publish(message(2))
        waiting = asyncio.create_task(broker.publish(message(3)))
        way.heal()
        async with asyncio.timeout(15):
            await waiting

        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)
        # Nobody waited for the second any more when the connection was back.
        assert await receiver.received(2) == [1, 3]


async def test_a_publisher_cancelled_between_publish_and_confirm_leaves_the_window_whole(amqp_url: str) -> None:
    async with _by_way_of_a_proxy(amqp_url) as (way, broker):
        await broker.publish(message(1))
        way.stall(to_server=False)  # confirms do not arrive
        publisher = asyncio.create_task(broker.publish(message(2)))
        async with connected(amqp_url) as other:
            await other.declare(1)
            await holds(other, 2)

        publisher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publisher
        way.heal()
        await broker.publish(message(3))

        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)
        assert await receiver.received(3) == [1, 2, 3]
        assert broker._publisher._flight == {}  # type: ignore[attr-defined]


async def test_a_publish_without_an_answer_fails_clearly_when_the_broker_is_left(amqp_url: str) -> None:
    async with _by_way_of_a_proxy(amqp_url) as (way, broker):
        way.stall()
        sent = asyncio.create_task(broker.publish(message(1)))
        await asyncio.sleep(0)

    with pytest.raises(Unavailable, match="earlier try may have reached it"):
        await sent
    with pytest.raises(NotSent):
        await broker.publish(message(2))


@pytest.mark.parametrize("ends", ["channel", "connection"])
async def test_what_is_published_while_its_channel_goes_is_sent_on_the_next(amqp_url: str, ends: str) -> None:
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    async with _by_way_of_a_proxy(amqp_url) as (way, broker):
        assert isinstance(broker, RabbitmqBroker)
        await broker.publish(message(1))
        publisher, batch = broker._publisher, broker._publisher.batch(1)
        meanwhile = Parcel(broker._route(message(3), ""), message(3).SerializeToString(), None, 1, batch)
        assert publisher._channel is not None
        publisher._channel.raw.add_on_close_callback(lambda *_: publisher.push([meanwhile]))

        if ends == "connection":
            way.cut()
        else:
            with raw_amqp.channel(amqp_url) as channel:
                channel.exchange_delete(topology.IN)
        async with asyncio.timeout(10):
            await asyncio.gather(broker.publish(message(2)), batch.waiter)

        assert failed == []
        assert meanwhile.outcome is None
        assert ends == "connection" or way.accepted == 2, "a channel that went took its connection with it"


async def test_what_is_on_its_way_to_a_subscription_that_closes_is_not_handed_over(amqp_url: str) -> None:
    async with _by_way_of_a_proxy(amqp_url) as (way, broker), connected(amqp_url) as other:
        await other.declare(1)
        receiver = Receiver()
        subscription = await broker.consume(QUEUE, receiver)
        way.stall(to_server=False)
        await other.publish(message(1))
        await holds(other, 0)  # it was sent, and the consumer's process does not count here

        await subscription.close()
        way.heal()
        await holds(broker, 1)  # asked over the connection by which it came

        assert receiver.deliveries == []


async def test_an_operator_closes_the_connections(amqp_url: str, rabbitmq_node: rabbitmq.Node) -> None:
    async with connected(amqp_url) as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        await broker.publish(message(1))
        await receiver.received(1)

        rabbitmq_node.close_connections(amqp_url)
        await broker.publish(message(2))

        assert sorted((await receiver.received(3))[1:]) == [1, 2]


async def test_a_blocked_server_makes_publishers_wait_and_consumers_go_on(
    amqp_url: str, rabbitmq_node: rabbitmq.Node
) -> None:
    async with connected(amqp_url) as broker:
        await broker.declare(1)
        for sequence in range(1, 11):
            await broker.publish(message(sequence))

        rabbitmq_node.block_publishers()
        try:
            written = asyncio.create_task(broker.publish(message(11)))  # this is what the server notices
            assert isinstance(broker, RabbitmqBroker)
            async with asyncio.timeout(5):
                while not broker.blocked:
                    await asyncio.sleep(0.01)
            with pytest.raises(NotSent, match="short of memory or disk"):
                async with asyncio.timeout(10):
                    await broker.publish(message(12))
            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)
            assert await receiver.received(10) == list(range(1, 11))
            assert not written.done()
            waiting = asyncio.create_task(broker.publish(message(13)))
        finally:
            rabbitmq_node.unblock_publishers()

        async with asyncio.timeout(10):
            await asyncio.gather(written, waiting)
        assert (await receiver.received(12))[10:] == [11, 13]
