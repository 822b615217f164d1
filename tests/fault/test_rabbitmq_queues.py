"""Queues of RabbitMQ that are deleted, refuse, or hold what they should not: nothing that was confirmed vanishes, and
one bad message stops no other."""

import asyncio
import functools
import time

import pytest
from support import rabbitmq, raw_amqp
from support.brokers import QUEUE, holds, letter, letters, publish
from support.mailboxes import Receiver, message, number, queue_of, session_in

from troupe.broker.addressing import task_queue
from troupe.broker.connect import connected
from troupe.broker.envelope import Undecodable, decode
from troupe.broker.port import AGENTS, Delivery
from troupe.broker.rabbitmq import topology
from troupe.chassis.errors import InvalidArgument

TASKS = task_queue("gpu")
SPARE = 0.5
"""Seconds that a busy machine may add."""


class TestDeleted:
    async def test_a_mailbox_is_declared_again_for_its_publishers(
        self, amqp_url: str, rabbitmq_node: rabbitmq.Node
    ) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            await broker.publish(message(1))
            rabbitmq_node.delete_queue(amqp_url, QUEUE)

            async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
                for sequence in range(2, 102):
                    tasks.create_task(broker.publish(message(sequence)))

            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)
            assert await receiver.received(100) == list(range(2, 102))

    async def test_a_mailbox_is_declared_again_for_its_consumer(
        self, amqp_url: str, rabbitmq_node: rabbitmq.Node
    ) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver)
            await broker.publish(message(1))
            await receiver.received(1)

            rabbitmq_node.delete_queue(amqp_url, QUEUE)
            await broker.publish(message(2))
            await receiver.received(2)
            receiver.ack_all()  # the first is void

            assert receiver.numbers == [1, 2]
            await holds(broker, 0)

    async def test_another_queue_asked_for_at_the_same_time_holds_what_it_held(
        self, amqp_url: str, rabbitmq_node: rabbitmq.Node
    ) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(2)
            await publish(broker, range(1, 4), session=session_in(0, 2))
            await holds(broker, 3)
            rabbitmq_node.delete_queue(amqp_url, queue_of(1))

            gone, there = await asyncio.gather(broker.depth(queue_of(1)), broker.depth(QUEUE))

            assert (gone.messages, there.messages) == (0, 3)

    async def test_a_task_queue_gets_back_what_was_deferred_meanwhile(
        self, amqp_url: str, rabbitmq_node: rabbitmq.Node
    ) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1, ["gpu"])
            receiver = Receiver()
            subscription = await broker.consume(TASKS, receiver)
            await publish(broker, range(1, 6), pool="gpu")
            await receiver.received(5)
            for delivery in receiver.deliveries:
                await broker.defer(delivery, 0.4)
            await subscription.close()

            rabbitmq_node.delete_queue(amqp_url, TASKS)

            await holds(broker, 5, TASKS)  # by way of the queue of strays
            again = Receiver(on_delivery=Delivery.ack)
            await broker.consume(TASKS, again)
            assert sorted(await again.received(5)) == [1, 2, 3, 4, 5]
            assert {decode(delivery.body).attempt for delivery in again.deliveries} == {1}

    async def test_dead_letters_and_delays_have_their_queues_again(
        self, amqp_url: str, rabbitmq_node: rabbitmq.Node
    ) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1, ["gpu"])
            receiver = Receiver()
            await broker.consume(TASKS, receiver)
            await broker.publish(message(1), pool="gpu")
            await receiver.received(1)
            rabbitmq_node.delete_queue(amqp_url, topology.letter_queue(AGENTS).name)
            rabbitmq_node.delete_queue(amqp_url, topology.delay_queue(100).name)

            await broker.defer(receiver.deliveries[0], 0.1)
            kept = letter()
            await broker.dead_letter(kept)

            assert await receiver.received(2) == [1, 1]
            async with asyncio.timeout(10):
                while await letters(broker) != [kept]:  # by way of the queue of strays
                    await asyncio.sleep(0.05)

    async def test_exchanges_are_declared_again(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            await broker.publish(message(1))
            with raw_amqp.channel(amqp_url) as channel:
                channel.exchange_delete(topology.IN)

            async with asyncio.timeout(10):
                await broker.publish(message(2))

            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)
            assert await receiver.received(2) == [1, 2]


class TestStrays:
    async def test_what_is_nobodys_is_kept_as_a_letter(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            with raw_amqp.channel(amqp_url) as channel:
                channel.basic_publish(topology.WORK, "somebody.elses", b"what is this?")

            async with asyncio.timeout(10):
                while not (found := await letters(broker)):
                    await asyncio.sleep(0.05)

            assert [each.body for each in found] == [b"what is this?"]

    async def test_one_delay_is_not_enough(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1, ["gpu"])
            receiver = Receiver()
            await broker.consume(TASKS, receiver)
            await broker.publish(message(1), pool="gpu")
            await receiver.received(1)

            began = time.monotonic()
            await broker.defer(receiver.deliveries[0], 2.6)
            await receiver.received(2)
            took = time.monotonic() - began

            assert 2.5 <= took <= 2.8 + SPARE
            assert decode(receiver.deliveries[1].body).attempt == 1
            receiver.deliveries[1].ack()
            await holds(broker, 0, TASKS)

    async def test_a_long_delay_does_not_wait_behind_a_pools_work(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1, ["gpu"])
            receiver = Receiver()
            await broker.consume(TASKS, receiver, prefetch=1)
            await publish(broker, range(1, 3), pool="gpu")
            await receiver.received(1)

            began = time.monotonic()
            await broker.defer(receiver.deliveries[0], 2.6)
            await receiver.received(2)  # and the consumer has no room
            await holds(broker, 1, TASKS)
            await holds(broker, 2, TASKS)

            assert time.monotonic() - began >= 2.5
            receiver.deliveries[1].ack()
            assert await receiver.received(3) == [1, 2, 1]


class TestRefused:
    async def test_a_queue_that_refuses_gets_the_message_when_it_has_room(
        self, amqp_url: str, rabbitmq_node: rabbitmq.Node
    ) -> None:
        vhost = amqp_url.rpartition("/")[2]
        async with connected(amqp_url) as broker:
            await broker.declare(2)
            rabbitmq_node.evaluate(
                f'rabbit_policy:set(<<"{vhost}">>, <<"short">>, <<"mailbox.0">>, [{{<<"max-length">>, 1}}], 1, '
                f'<<"queues">>, <<"test">>)'
            )
            full, free = session_in(0, 2), session_in(1, 2)
            waiting = []
            for sequence in range(1, 6):  # one by one: the server refuses from the moment on at which it notices
                waiting.append(asyncio.create_task(broker.publish(message(sequence, session=full))))
                await asyncio.wait(waiting[-1:], timeout=0.2)
            await broker.publish(message(1, session=free))
            assert 0 < sum(each.done() for each in waiting) < 5, "the queue refuses nothing"

            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)

            async with asyncio.timeout(20):
                await asyncio.gather(*waiting)
            await receiver.received_all(range(1, 6))

    async def test_an_oversized_message_is_refused_and_stops_no_other(
        self, amqp_url: str, rabbitmq_node: rabbitmq.Node
    ) -> None:
        rabbitmq_node.evaluate("application:set_env(rabbit, max_message_size, 100000)")
        try:
            async with connected(amqp_url) as broker:
                await broker.declare(1)
                texts = {sequence: "x" * (200_000 if sequence == 5 else 10) for sequence in range(1, 11)}
                outcomes = await broker.publish_many([message(key, text=text) for key, text in texts.items()])

                assert [type(outcome) for outcome in outcomes] == [
                    InvalidArgument if sequence == 5 else type(None) for sequence in texts
                ]
                receiver = Receiver(on_delivery=Delivery.ack)
                await broker.consume(QUEUE, receiver)
                await receiver.received_all(set(texts) - {5})
                assert 5 not in receiver.numbers
        finally:
            rabbitmq_node.evaluate("application:set_env(rabbit, max_message_size, 134217728)")

    async def test_one_that_no_server_takes_is_not_even_sent(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            with pytest.raises(InvalidArgument, match="RabbitMQ carries"):
                await broker.publish(message(1, text="x" * (16 * 1024 * 1024)))

    async def test_a_large_one_that_takes_several_frames_comes_whole(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver)
            large = message(1, text="0123456789" * 50_000)
            await broker.publish_many([message(2), large, message(3)])

            await receiver.received(3)

            assert receiver.numbers == [2, 1, 3]
            assert receiver.deliveries[1].body == large.SerializeToString()

    async def test_a_body_that_is_no_envelope_is_delivered_as_it_is(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            raw_amqp.send(amqp_url, QUEUE, b"\xff\x00 no envelope")
            raw_amqp.send(amqp_url, QUEUE, b"")
            await broker.publish(message(1))
            receiver: list[Delivery] = []
            arrived = asyncio.Event()

            def handle(delivery: Delivery) -> None:
                receiver.append(delivery)
                if len(receiver) == 3:
                    arrived.set()

            await broker.consume(QUEUE, handle)
            async with asyncio.timeout(10):
                await arrived.wait()

            assert [delivery.body for delivery in receiver[:2]] == [b"\xff\x00 no envelope", b""]
            assert number(receiver[2]) == 1
            for delivery in receiver[:2]:
                with pytest.raises(Undecodable):
                    decode(delivery.body)


class TestGivenUpByTheServer:
    async def test_a_message_over_the_delivery_limit_is_a_letter(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1)
            await broker.publish(message(1, stream="s"))
            await asyncio.to_thread(functools.partial(_refuse, amqp_url, topology.DELIVERY_LIMIT + 1))

            async with asyncio.timeout(10):
                while not (found := await letters(broker)):
                    await asyncio.sleep(0.05)
            again = await letters(broker)

            (kept,) = found
            assert kept.reason == "DELIVERY_LIMIT"
            assert kept.message_id == "s-1"
            assert kept.session == "default/default/clerk/session"
            assert kept.pool == AGENTS
            assert kept.body == message(1, stream="s").SerializeToString()
            assert time.time() - 60 < kept.last_failed < time.time() + 60
            assert found == again, "a letter must look the same each time"
            async with broker.dead_letters() as held:
                async for each in held:
                    await each.remove()
            assert await letters(broker) == []

    async def test_one_that_was_deferred_before_is_not_taken_for_expired(self, amqp_url: str) -> None:
        async with connected(amqp_url) as broker:
            await broker.declare(1, ["gpu"])
            receiver = Receiver()
            subscription = await broker.consume(TASKS, receiver)
            await broker.publish(message(1), pool="gpu")
            await receiver.received(1)
            await broker.defer(receiver.deliveries[0], 0.1)
            await subscription.close()
            await asyncio.to_thread(functools.partial(_refuse, amqp_url, topology.DELIVERY_LIMIT + 1, TASKS))

            async with asyncio.timeout(10):
                while not (found := await letters(broker, "gpu")):
                    await asyncio.sleep(0.05)

            assert [(each.reason, TASKS in each.error) for each in found] == [("DELIVERY_LIMIT", True)]


def _refuse(url: str, times: int, queue: str = QUEUE) -> None:
    """Take the queue's message and give it back, again and again."""
    with raw_amqp.channel(url) as channel:
        channel.basic_qos(prefetch_count=1)
        for count, (method, _, _) in enumerate(channel.consume(queue, inactivity_timeout=5), start=1):
            assert method is not None, "it was given up too early"
            channel.basic_nack(method.delivery_tag or 0)
            if count == times:
                break
        channel.cancel()
