"""What every broker promises: one suite, run over each backend."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from support.mailboxes import Receiver, message, number, queue_of, session_in

from troupe.broker.connect import connected
from troupe.broker.memory import MemoryBroker
from troupe.broker.port import Broker, DeadLetter, Delivery, MailboxFull, Subscription
from troupe.broker.sqlite_box import WINDOW
from troupe.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from troupe.v1.envelope_pb2 import Envelope, SessionRef

Open = Callable[..., AbstractAsyncContextManager[Broker]]
QUEUE = queue_of(0)


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens a broker; where it is durable, the same one each time."""
    return {"memory": _memory, "sqlite": _sqlite(tmp_path)}[request.param]


@pytest.fixture(params=["sqlite"])
def reopened(tmp_path: Path) -> Open:
    """As `opened`, durable backends only."""
    return _sqlite(tmp_path)


def _memory(max_depth: int = 1_000_000) -> AbstractAsyncContextManager[Broker]:
    return connected("memory://", max_depth)


def _sqlite(directory: Path) -> Open:
    def opened(max_depth: int = 1_000_000) -> AbstractAsyncContextManager[Broker]:
        return connected(f"sqlite:///{directory}/broker.db", max_depth)

    return opened


async def _publish(broker: Broker, numbers: range, **parts: str) -> None:
    for sequence in numbers:
        await broker.publish(message(sequence, **parts))


async def _drained(broker: Broker, queue: str = QUEUE) -> None:
    """Returns once the mailbox is empty."""
    async with asyncio.timeout(20):
        while (await broker.depth(queue)).messages:  # noqa: ASYNC110 - a broker tells nobody that it is empty
            await asyncio.sleep(0.001)


async def _quiet() -> None:
    """Returns when whatever the broker does by itself, on the loop, has been done."""
    for _ in range(20):
        await asyncio.sleep(0.001)


class TestDelivery:
    async def test_a_confirmed_message_is_delivered_as_it_was_sent(self, opened: Open) -> None:
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

    async def test_delivery_says_when_the_message_was_confirmed(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver)

            await _publish(broker, range(1, 3))
            await receiver.received(2)

            first, second = receiver.deliveries
            assert 1.7e9 < first.published <= second.published

    @pytest.mark.parametrize("count", [10, 3 * WINDOW + 7])
    async def test_messages_published_before_anyone_consumes_come_in_order(self, opened: Open, count: int) -> None:
        async with opened() as broker:
            await broker.declare(1)
            await _publish(broker, range(1, count + 1))
            receiver = Receiver(on_delivery=Delivery.ack)

            await broker.consume(QUEUE, receiver)

            assert await receiver.received(count) == list(range(1, count + 1))

    async def test_messages_published_while_others_are_consumed_come_in_order(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            count = 5 * WINDOW
            await _publish(broker, range(1, count // 2))
            receiver = Receiver(on_delivery=Delivery.ack)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_publish(broker, range(count // 2, count + 1)))
                await broker.consume(QUEUE, receiver, prefetch=3)

            assert await receiver.received(count) == list(range(1, count + 1))

    async def test_publishes_that_do_not_wait_for_each_other_keep_their_order(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver(on_delivery=Delivery.ack)
            await broker.consume(QUEUE, receiver)

            async with asyncio.TaskGroup() as tasks:
                for sequence in range(1, 501):
                    tasks.create_task(broker.publish(message(sequence)))

            assert await receiver.received(500) == list(range(1, 501))

    async def test_a_publisher_in_a_loop_lets_the_consumer_work(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver)

            async with asyncio.timeout(20):
                sequence = 0
                while not receiver.deliveries:
                    sequence += 1
                    await broker.publish(message(sequence))

    async def test_each_message_comes_out_of_its_sessions_mailbox_only(self, opened: Open) -> None:
        async with opened() as broker:
            shards = 32
            await broker.declare(shards)
            receivers = [Receiver(on_delivery=Delivery.ack) for _ in range(shards)]
            for shard, receiver in enumerate(receivers):
                await broker.consume(queue_of(shard), receiver)

            async with asyncio.TaskGroup() as tasks:
                for shard in range(shards):
                    tasks.create_task(_publish(broker, range(1, 11), session=session_in(shard, shards)))

            for receiver in receivers:
                assert await receiver.received(10) == list(range(1, 11))

    async def test_a_publisher_cancelled_before_the_confirm_may_have_sent(self, opened: Open) -> None:
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

            assert await receiver.received(2) == [1, 2]


class TestPrefetch:
    async def test_no_more_than_the_prefetch_are_unacked(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver, prefetch=4)

            await _publish(broker, range(1, 11))
            await receiver.received(4)
            await _quiet()

            assert receiver.numbers == [1, 2, 3, 4]

    async def test_an_ack_makes_room_for_one(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver, prefetch=4)
            await _publish(broker, range(1, 11))
            await receiver.received(4)

            receiver.deliveries[2].ack()
            await receiver.received(5)
            await _quiet()

            assert receiver.numbers == [1, 2, 3, 4, 5]

    async def test_acking_twice_is_a_defect(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver)
            await broker.publish(message(1))
            await receiver.received(1)
            receiver.deliveries[0].ack()

            with pytest.raises(RuntimeError, match="acked twice"):
                receiver.deliveries[0].ack()

            assert (await broker.depth(QUEUE)).messages == 0


class TestSubscription:
    async def test_a_mailbox_has_one_consumer(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(2)
            await broker.consume(QUEUE, Receiver())

            with pytest.raises(FailedPrecondition, match="has a consumer already"):
                await broker.consume(QUEUE, Receiver())

            await broker.consume(queue_of(1), Receiver())

    async def test_what_was_unacked_at_close_comes_again_in_order_and_says_so(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            await _publish(broker, range(1, 11))
            first, second = Receiver(), Receiver()
            subscription = await broker.consume(QUEUE, first, prefetch=5)
            await first.received(5)
            first.deliveries[0].ack()
            first.deliveries[2].ack()
            await first.received(7)

            await subscription.close()
            await broker.consume(QUEUE, second)

            assert await second.received(8) == [2, 4, 5, 6, 7, 8, 9, 10]
            assert [delivery.redeliveries for delivery in second.deliveries] == [1, 1, 1, 1, 1, 0, 0, 0]

    async def test_redeliveries_are_counted(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            await broker.publish(message(1))
            for times in range(4):
                receiver = Receiver()
                subscription = await broker.consume(QUEUE, receiver)
                await receiver.received(1)
                assert receiver.deliveries[0].redeliveries == times
                await subscription.close()

    async def test_a_cancelled_subscription_delivers_no_more_and_lets_its_deliveries_be_acked(
        self, opened: Open
    ) -> None:
        async with opened() as broker:
            await broker.declare(1)
            receiver = Receiver()
            subscription = await broker.consume(QUEUE, receiver, prefetch=2)
            await _publish(broker, range(1, 6))
            await receiver.received(2)

            await subscription.cancel()
            receiver.ack_all()
            await _quiet()

            assert receiver.numbers == [1, 2]
            assert (await broker.depth(QUEUE)).messages == 3

    async def test_after_cancel_and_close_the_rest_goes_to_the_next_consumer(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            first, second = Receiver(), Receiver()
            subscription = await broker.consume(QUEUE, first, prefetch=2)
            await _publish(broker, range(1, 6))
            await first.received(2)

            await subscription.cancel()
            first.deliveries[0].ack()
            await subscription.close()
            await broker.consume(QUEUE, second)

            assert await second.received(4) == [2, 3, 4, 5]

    async def test_an_ack_after_close_comes_too_late(self, opened: Open) -> None:
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
            assert (await broker.depth(QUEUE)).messages == 1

    async def test_closing_twice_changes_nothing(self, opened: Open) -> None:
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


class TestDepth:
    async def test_a_mailbox_refuses_what_it_has_no_room_for_until_something_is_acked(self, opened: Open) -> None:
        async with opened(max_depth=3) as broker:
            await broker.declare(1)
            receiver = Receiver()
            await broker.consume(QUEUE, receiver)
            await _publish(broker, range(1, 4))
            await receiver.received(3)

            with pytest.raises(MailboxFull, match="holds 3 messages") as refused:
                await broker.publish(message(4))
            assert refused.value.retry_after == 1.0
            receiver.deliveries[0].ack()
            await broker.publish(message(4))

            assert await receiver.received(4) == [1, 2, 3, 4]

    async def test_one_full_mailbox_leaves_the_others_open(self, opened: Open) -> None:
        async with opened(max_depth=1) as broker:
            await broker.declare(2)
            full, free = session_in(0, 2), session_in(1, 2)
            await broker.publish(message(1, session=full))

            with pytest.raises(MailboxFull):
                await broker.publish(message(2, session=full))

            await broker.publish(message(1, session=free))

    async def test_depth_counts_what_waits_and_what_is_unacked(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            assert (await broker.depth(QUEUE)).messages == 0
            await _publish(broker, range(1, 11))
            receiver = Receiver()
            await broker.consume(QUEUE, receiver, prefetch=4)
            await receiver.received(4)
            assert (await broker.depth(QUEUE)).messages == 10

            receiver.ack_all()
            await receiver.received(8)

            assert (await broker.depth(QUEUE)).messages == 6

    async def test_oldest_is_the_first_message_that_is_not_acked(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)
            assert (await broker.depth(QUEUE)).oldest is None
            await _publish(broker, range(1, 4))
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


class TestTopology:
    async def test_declaring_again_changes_nothing(self, opened: Open) -> None:
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
            assert (await broker.depth(queue_of(1))).messages == 2

    async def test_declaring_twice_at_once_changes_nothing(self, opened: Open) -> None:
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

    async def test_another_number_of_shards_is_refused(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(4)
            await broker.publish(message(1))

            with pytest.raises(FailedPrecondition, match="made for 4 shards, not 2"):
                await broker.declare(2)

    @pytest.mark.parametrize("queue", ["troupe.v1.mailbox.2", "troupe.v1.mailbox.-1", "other.0", ""])
    async def test_a_queue_that_is_no_mailbox_is_not_found(self, opened: Open, queue: str) -> None:
        async with opened() as broker:
            await broker.declare(2)

            with pytest.raises(NotFound, match="no mailbox"):
                await broker.consume(queue, Receiver())
            with pytest.raises(NotFound, match="no mailbox"):
                await broker.depth(queue)

    async def test_nothing_can_be_published_before_the_mailboxes_are_declared(self, opened: Open) -> None:
        async with opened() as broker:
            with pytest.raises(NotFound, match="declare"):
                await broker.publish(message(1))

    async def test_a_target_that_is_no_session_is_refused(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.declare(1)

            with pytest.raises(InvalidArgument, match=r"session\.agent"):
                await broker.publish(Envelope(target=SessionRef(agent="Not A Name", session="s")))


class TestDeadLetters:
    LETTER = DeadLetter(
        body=b"\x00\xff no envelope",
        pool="agents",
        message_id="m-1",
        session="default/default/clerk/s",
        reason="UNDECODABLE",
        error="the body is no envelope",
        attempts=4,
        first_failed=1.5,
        last_failed=2.5,
        worker_id="worker-0",
        revision_id="",
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )

    async def test_letters_are_kept_whole_and_in_order(self, opened: Open) -> None:
        letters = [replace(self.LETTER, message_id=f"m-{number}") for number in range(5)]
        async with opened() as broker:
            await broker.declare(1)
            for letter in letters:
                await broker.dead_letter(letter)

            assert await broker.dead_letters(limit=3) == letters[:3]
            assert await broker.dead_letters(limit=10) == letters

    async def test_no_text_keeps_a_letter_from_being_kept(self, opened: Open) -> None:
        async with opened() as broker:
            await broker.dead_letter(replace(self.LETTER, error="half a surrogate: \udc80", session="nul \0"))

            (kept,) = await broker.dead_letters(limit=1)

            assert kept.error.startswith("half a surrogate: ")
            assert kept.session == "nul \0"


class TestReopening:
    async def test_nothing_confirmed_is_lost_and_nothing_acked_comes_again(self, reopened: Open) -> None:
        async with reopened() as broker:
            await broker.declare(1)
            await _publish(broker, range(1, 101))
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

            assert await receiver.received(91) == [*range(1, 11), *range(21, 102)]
            assert [delivery.redeliveries for delivery in receiver.deliveries] == [1] * 90 + [0]
            await _quiet()
            assert len(receiver.deliveries) == 91

    async def test_depth_and_its_bound_survive(self, reopened: Open) -> None:
        async with reopened() as broker:
            await broker.declare(1)
            await _publish(broker, range(1, 4))
            before = await broker.depth(QUEUE)

        async with reopened(max_depth=3) as broker:
            await broker.declare(1)

            assert await broker.depth(QUEUE) == before
            with pytest.raises(MailboxFull):
                await broker.publish(message(4))

    async def test_the_number_of_shards_is_remembered(self, reopened: Open) -> None:
        async with reopened() as broker:
            await broker.declare(4)

        async with reopened() as broker:
            with pytest.raises(FailedPrecondition, match="made for 4 shards, not 8"):
                await broker.declare(8)
            await broker.declare(4)

    async def test_dead_letters_survive(self, reopened: Open) -> None:
        async with reopened() as broker:
            await broker.dead_letter(TestDeadLetters.LETTER)

        async with reopened() as broker:
            assert await broker.dead_letters(limit=2) == [TestDeadLetters.LETTER]

    async def test_a_broker_that_was_left_delivers_nothing_more(self, reopened: Open) -> None:
        async with reopened() as broker:
            await broker.declare(1)
            await _publish(broker, range(1, 4))
            first, late = Receiver(), Receiver()
            subscription = await broker.consume(QUEUE, first)
            await first.received(3)
            await subscription.close()
            await broker.consume(QUEUE, late)
        await _quiet()

        assert late.deliveries == []

    async def test_an_ack_after_the_broker_was_left_comes_too_late(self, reopened: Open) -> None:
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

    async def test_what_the_body_raises_comes_out_as_it_is(self, opened: Open) -> None:
        with pytest.raises(ZeroDivisionError):
            async with opened() as broker:
                await broker.declare(1)
                await broker.consume(QUEUE, Receiver(on_delivery=Delivery.ack))
                await broker.publish(message(1))
                raise ZeroDivisionError


class TestSettling:
    """Publishers and consumers come and go; in the end every message was settled exactly once."""

    @pytest.mark.parametrize("seed", range(3))
    async def test_every_message_is_settled_once(self, opened: Open, seed: int) -> None:
        async with opened() as broker:
            await _check_settling(broker, random.Random(seed))

    async def test_a_broker_that_loses_one_fails(self) -> None:
        class Forgetful(MemoryBroker):
            async def consume(
                self, queue: str, handler: Callable[[Delivery], None], prefetch: int = 32
            ) -> Subscription:
                def handle(delivery: Delivery) -> None:
                    if number(delivery) == 150:
                        delivery.ack()
                    else:
                        handler(delivery)

                return await super().consume(queue, handle, prefetch)

        with pytest.raises(AssertionError, match="settled"):
            await _check_settling(Forgetful(), random.Random(0))

    async def test_a_broker_that_delivers_one_twice_fails(self) -> None:
        class Stuttering(MemoryBroker):
            async def publish(self, envelope: Envelope) -> None:
                await super().publish(envelope)
                if envelope.number.sequence == 150:
                    await super().publish(envelope)

        with pytest.raises(AssertionError, match="settled"):
            await _check_settling(Stuttering(), random.Random(0))


async def _check_settling(broker: Broker, dice: random.Random) -> None:
    """Send 4 times 200 messages while consumers take some, ack most, in any order, and leave."""
    senders, each = 4, 200
    settled: Counter[tuple[str, int]] = Counter()
    await broker.declare(1)

    def settle(delivery: Delivery) -> None:
        if delivery.acked:
            return
        delivery.ack()
        where = Envelope.FromString(delivery.body).number
        settled[where.stream, where.sequence] += 1

    async def consume_for_a_while() -> None:
        held: list[Delivery] = []
        subscription = await broker.consume(QUEUE, held.append, prefetch=dice.randint(1, 40))
        for _ in range(dice.randint(1, 10)):
            await asyncio.sleep(0.001)
            for delivery in dice.sample(held, dice.randint(0, len(held))):
                settle(delivery)
        if dice.random() < 0.5:
            await subscription.cancel()
            for delivery in dice.sample(held, len(held) // 2):
                settle(delivery)
        await subscription.close()

    async with asyncio.TaskGroup() as tasks:
        for sender in range(senders):
            tasks.create_task(_publish(broker, range(1, each + 1), stream=f"sender-{sender}"))
        for _ in range(10):
            await consume_for_a_while()
    await broker.consume(QUEUE, settle)
    await _drained(broker)
    everything = {(f"sender-{sender}", sequence): 1 for sender in range(senders) for sequence in range(1, each + 1)}
    assert settled == everything, "each message must be settled exactly once"
