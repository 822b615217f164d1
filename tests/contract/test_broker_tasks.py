"""What every broker promises of task queues: unordered work, shared by consumers, put off when it failed."""

import asyncio
import time
from collections import Counter

import pytest
from support.brokers import QUEUE, Opened, holds, publish
from support.mailboxes import Receiver, message, number

from troupe.broker.addressing import task_queue
from troupe.broker.port import Broker, Delivery
from troupe.chassis.errors import InvalidArgument
from troupe.v1.envelope_pb2 import Envelope, SessionRef

TASKS = task_queue("gpu")
DELAY = 0.2
"""Seconds. Real ones: where a server keeps the time, only a real clock tells."""


class TestSharing:
    async def test_each_task_goes_to_one_of_several_consumers(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1, ["gpu"])
            receivers = [Receiver(on_delivery=Delivery.ack) for _ in range(3)]
            for receiver in receivers:
                await broker.consume(TASKS, receiver, prefetch=4)

            await publish(broker, range(1, 301), pool="gpu")
            await holds(broker, 0, TASKS)
            await opened.quiet()

            taken = Counter(sequence for receiver in receivers for sequence in receiver.numbers)
            assert taken == Counter(range(1, 301))
            assert all(receiver.numbers for receiver in receivers)

    async def test_a_busy_consumer_leaves_the_work_to_the_others(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1, ["gpu"])
            busy, free = Receiver(), Receiver(on_delivery=Delivery.ack)
            failed: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
            await broker.consume(TASKS, busy, prefetch=1)
            await broker.consume(TASKS, free, prefetch=1)

            await publish(broker, range(1, 21), pool="gpu")

            await busy.received(1)
            await free.received(19)
            assert len(busy.deliveries) == 1
            assert failed == []

    async def test_what_one_leaves_behind_goes_to_another_that_is_there(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1, ["gpu"])
            leaving, staying = Receiver(), Receiver(on_delivery=Delivery.ack)
            subscription = await broker.consume(TASKS, leaving, prefetch=10)
            await publish(broker, range(1, 11), pool="gpu")
            await leaving.received(10)
            leaving.deliveries[0].ack()
            await broker.consume(TASKS, staying)

            await subscription.close()

            assert sorted(await staying.received(9)) == list(range(2, 11))
            assert {delivery.redeliveries for delivery in staying.deliveries} == {1}

    async def test_what_several_leave_behind_comes_in_its_old_place(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1, ["gpu"])
            leaving = [Receiver(), Receiver()]
            subscriptions = [await broker.consume(TASKS, receiver, prefetch=5) for receiver in leaving]
            await publish(broker, range(1, 21), pool="gpu")
            for receiver in leaving:
                await receiver.received(5)

            for subscription in subscriptions:
                await subscription.close()
            rest = Receiver(on_delivery=Delivery.ack)
            await broker.consume(TASKS, rest)

            came = await rest.received(20)
            assert sorted(came) == list(range(1, 21))
            if opened.backend.ordered_requeue:
                assert came == sorted(came)

    async def test_a_consumer_that_was_cancelled_gets_no_more(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1, ["gpu"])
            cancelled, other = Receiver(on_delivery=Delivery.ack), Receiver(on_delivery=Delivery.ack)
            subscription = await broker.consume(TASKS, cancelled)
            await broker.consume(TASKS, other)

            await subscription.cancel()
            await publish(broker, range(1, 11), pool="gpu")

            assert await other.received(10) == list(range(1, 11))
            assert cancelled.deliveries == []

    async def test_pools_and_mailboxes_are_apart(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1, ["gpu", "cpu"])
            receivers = {queue: Receiver() for queue in (QUEUE, TASKS, task_queue("cpu"))}
            for queue, receiver in receivers.items():
                await broker.consume(queue, receiver)

            await broker.publish(message(1))
            await broker.publish(message(2), pool="gpu")
            await broker.publish_many([message(3), message(4)], pool="cpu")

            assert await receivers[task_queue("cpu")].received(2) == [3, 4]
            assert await receivers[TASKS].received(1) == [2]
            assert await receivers[QUEUE].received(1) == [1]
            assert {delivery.queue for delivery in receivers[TASKS].deliveries} == {TASKS}

    async def test_a_task_for_no_session_is_refused(self, opened: Opened) -> None:
        bad = Envelope(target=SessionRef(agent="Not A Name", session="s"))
        async with opened() as broker:
            await broker.declare(1, ["gpu"])

            with pytest.raises(InvalidArgument, match=r"session\.agent"):
                await broker.publish(bad, pool="gpu")
            refused, sent = await broker.publish_many([bad, message(1)], pool="gpu")

            assert isinstance(refused, InvalidArgument)
            assert sent is None
            await holds(broker, 1, TASKS)


class TestDeferring:
    async def test_a_deferred_message_comes_after_its_delay_as_the_next_attempt(self, opened: Opened) -> None:
        async with opened() as broker:
            receiver = await _consuming(broker)
            sent = message(1, text="work")
            sent.attempt = 2
            await broker.publish(sent, pool="gpu")
            await receiver.received(1)

            before = time.monotonic()
            await broker.defer(receiver.deliveries[0], DELAY)
            await receiver.received(2)
            took = time.monotonic() - before

            assert DELAY * (1 - opened.backend.early) <= took <= DELAY + opened.backend.late
            again = receiver.deliveries[1]
            sent.attempt = 3
            assert Envelope.FromString(again.body) == sent
            assert again.queue == TASKS
            assert again.redeliveries == 0

    async def test_it_acks_the_delivery(self, opened: Opened) -> None:
        async with opened() as broker:
            receiver = await _consuming(broker)
            await broker.publish(message(1), pool="gpu")
            await receiver.received(1)

            await broker.defer(receiver.deliveries[0], 60.0)

            assert receiver.deliveries[0].acked
            await holds(broker, 0, TASKS)
            with pytest.raises(RuntimeError, match="acked twice"):
                receiver.deliveries[0].ack()

    async def test_a_deferred_message_can_be_deferred_again_and_acked_at_last(self, opened: Opened) -> None:
        async with opened() as broker:
            receiver = await _consuming(broker)
            await broker.publish(message(1), pool="gpu")
            for attempt in range(3):
                await receiver.received(attempt + 1)
                await broker.defer(receiver.deliveries[attempt], 0.1)
            await receiver.received(4)

            receiver.deliveries[3].ack()

            assert [Envelope.FromString(delivery.body).attempt for delivery in receiver.deliveries] == [0, 1, 2, 3]
            await holds(broker, 0, TASKS)
            await opened.quiet()
            assert len(receiver.deliveries) == 4

    async def test_others_go_on_meanwhile(self, opened: Opened) -> None:
        async with opened() as broker:
            receiver = await _consuming(broker, prefetch=1)
            await publish(broker, range(1, 12), pool="gpu")
            await receiver.received(1)

            await broker.defer(receiver.deliveries[0], 10 * DELAY)
            for count in range(2, 12):
                await receiver.received(count)
                receiver.deliveries[-1].ack()

            assert receiver.numbers == list(range(1, 12))
            assert await receiver.received(12) == [*range(1, 12), 1]

    async def test_the_shorter_delay_comes_first(self, opened: Opened) -> None:
        async with opened() as broker:
            receiver = await _consuming(broker)
            await publish(broker, range(1, 4), pool="gpu")
            await receiver.received(3)

            for delivery, delay in zip(receiver.deliveries, (1.6, 0.8, 0.1), strict=True):
                await broker.defer(delivery, delay)

            assert (await receiver.received(6))[3:] == [3, 2, 1]

    async def test_many_deferred_at_once_all_come_back_once(self, opened: Opened) -> None:
        async with opened() as broker:
            receiver = await _consuming(broker, prefetch=300)
            await publish(broker, range(1, 301), pool="gpu")
            await receiver.received(300)

            async with asyncio.TaskGroup() as tasks:
                for delivery in list(receiver.deliveries):
                    tasks.create_task(broker.defer(delivery, DELAY))
            await receiver.received(600)
            for delivery in receiver.deliveries[300:]:
                delivery.ack()

            assert sorted(map(number, receiver.deliveries[300:])) == list(range(1, 301))
            await holds(broker, 0, TASKS)

    async def test_each_pool_gets_its_own_back(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1, ["gpu", "cpu"])
            receivers = {pool: Receiver() for pool in ("gpu", "cpu")}
            for pool, receiver in receivers.items():
                await broker.consume(task_queue(pool), receiver)
            await broker.publish(message(1), pool="gpu")
            await broker.publish(message(2), pool="cpu")

            for receiver in receivers.values():
                await receiver.received(1)
                await broker.defer(receiver.deliveries[0], 0.1)

            assert await receivers["gpu"].received(2) == [1, 1]
            assert await receivers["cpu"].received(2) == [2, 2]

    async def test_a_mailboxs_delivery_cannot_be_deferred(self, opened: Opened) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver)
            await broker.publish(message(1))
            await receiver.received(1)

            with pytest.raises(InvalidArgument, match="it has an order"):
                await broker.defer(receiver.deliveries[0], 1.0)

            assert not receiver.deliveries[0].acked

    @pytest.mark.parametrize("delay", [0.0, -1.0, float("nan")])
    async def test_a_delay_that_is_none_is_refused(self, opened: Opened, delay: float) -> None:
        async with opened() as broker:
            receiver = await _consuming(broker)
            await broker.publish(message(1), pool="gpu")
            await receiver.received(1)

            with pytest.raises(InvalidArgument, match="above 0"):
                await broker.defer(receiver.deliveries[0], delay)

            assert not receiver.deliveries[0].acked

    async def test_deferring_what_was_acked_is_a_defect(self, opened: Opened) -> None:
        async with opened() as broker:
            receiver = await _consuming(broker)
            await broker.publish(message(1), pool="gpu")
            await receiver.received(1)
            receiver.deliveries[0].ack()

            with pytest.raises(RuntimeError, match="after it was acked"):
                await broker.defer(receiver.deliveries[0], 0.1)

            await holds(broker, 0, TASKS)


async def _consuming(broker: Broker, prefetch: int = 32) -> Receiver:
    """A consumer of the task queue, declared for it."""
    await broker.declare(1, ["gpu"])
    receiver = Receiver()
    await broker.consume(TASKS, receiver, prefetch)
    return receiver
