"""What a broker counts."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from support.brokers import QUEUE, letter
from support.fake_clock import FakeClock
from support.mailboxes import Receiver, message

from troupe.broker import metrics, sqlite_box
from troupe.broker.addressing import task_queue
from troupe.broker.connect import connected
from troupe.broker.memory import MemoryBroker
from troupe.broker.port import Delivery, NotSent
from troupe.broker.sqlite import SqliteBroker


class Counted:
    """How much a sample grew since this was made."""

    def __init__(self, name: str, **labels: str) -> None:
        self._name, self._labels = name, labels
        self._before = self._value()

    def __call__(self) -> float:
        return self._value() - self._before

    def _value(self) -> float:
        return REGISTRY.get_sample_value(self._name, self._labels) or 0.0


async def test_publishes_are_counted_and_so_are_their_confirms() -> None:
    publishes, confirms = Counted("troupe_broker_publishes_total"), Counted("troupe_broker_confirms_total")
    seconds = Counted("troupe_broker_confirm_seconds_count")
    broker = MemoryBroker()
    await broker.declare(1)

    await broker.publish(message(1))
    await broker.publish(message(2))

    assert (publishes(), confirms(), seconds()) == (2, 2, 2)


async def test_messages_published_together_are_counted_each() -> None:
    publishes, confirms = Counted("troupe_broker_publishes_total"), Counted("troupe_broker_confirms_total")
    async with connected("memory://") as broker:
        await broker.declare(1)

        await broker.publish_many([message(1), message(2), message(3)])

    assert (publishes(), confirms()) == (3, 3)


async def test_publishes_that_fail_are_counted_by_kind(tmp_path: Path) -> None:
    kinds = {
        kind: Counted("troupe_broker_publish_failures_total", kind=kind)
        for kind in ("not_sent", "cancelled", "unavailable")
    }
    confirms = Counted("troupe_broker_confirms_total")
    async with SqliteBroker.opened(tmp_path / "broker.db") as broker:
        await broker.declare(1)
        publisher = asyncio.create_task(broker.publish(message(1)))
        await asyncio.sleep(0)
        publisher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publisher
        with pytest.raises(ZeroDivisionError), metrics.Publishing(2):
            raise ZeroDivisionError
    with pytest.raises(NotSent):
        await broker.publish(message(2))

    assert {kind: counted() for kind, counted in kinds.items()} == {"not_sent": 1, "cancelled": 1, "unavailable": 2}
    assert confirms() == 0


async def test_what_waits_for_its_confirm_is_in_flight(tmp_path: Path) -> None:
    in_flight = Counted("troupe_broker_in_flight_messages")
    async with SqliteBroker.opened(tmp_path / "broker.db") as broker:
        await broker.declare(1)
        publishers = [asyncio.create_task(broker.publish(message(number))) for number in (1, 2)]
        publishers.append(asyncio.create_task(_publish_many(broker)))
        await asyncio.sleep(0)
        assert in_flight() == 4

        await asyncio.gather(*publishers)

    assert in_flight() == 0


async def test_deliveries_redeliveries_and_acks_are_counted() -> None:
    deliveries, acks = Counted("troupe_broker_deliveries_total"), Counted("troupe_broker_acks_total")
    redeliveries = Counted("troupe_broker_redeliveries_total")
    broker = MemoryBroker()
    await broker.declare(1)
    for sequence in range(1, 4):
        await broker.publish(message(sequence))
    first, second = Receiver(), Receiver(on_delivery=Delivery.ack)
    subscription = await broker.consume(QUEUE, first, prefetch=2)
    await first.received(2)

    await subscription.close()
    await broker.consume(QUEUE, second)
    await second.received(3)

    assert (deliveries(), redeliveries(), acks()) == (5, 2, 3)


async def test_deferrals_are_counted_by_the_attempt_that_failed() -> None:
    attempts = {attempt: Counted("troupe_broker_deferrals_total", attempt=attempt) for attempt in ("0", "1", "10")}
    acks = Counted("troupe_broker_acks_total")
    async with connected("memory://") as broker:
        await broker.declare(1, ["gpu"])
        receiver = Receiver()
        await broker.consume(task_queue("gpu"), receiver)
        for attempt in (0, 1, 1, 10, 4_000_000_000):
            task = message(1)
            task.attempt = attempt
            await broker.publish(task, pool="gpu")
        await receiver.received(5)

        for delivery in receiver.deliveries:
            await broker.defer(delivery, 60.0)

    assert {attempt: counted() for attempt, counted in attempts.items()} == {"0": 1, "1": 2, "10": 2}
    assert acks() == 5


async def test_dead_letters_are_counted_by_reason() -> None:
    expired = Counted("troupe_broker_dead_letters_total", reason="EXPIRED")

    await MemoryBroker().dead_letter(letter(reason="EXPIRED"))

    assert expired() == 1


def test_invented_reasons_do_not_make_labels_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_reasons", {"EXPIRED"})
    monkeypatch.setattr(metrics, "MAX_REASONS", 2)
    names = ("EXPIRED", "INVENTED_1", "INVENTED_2", "INVENTED_3", "OTHER")
    counted = {name: Counted("troupe_broker_dead_letters_total", reason=name) for name in names}

    for name in names[:4]:
        metrics.dead_lettered(name)
        metrics.dead_lettered(name)

    assert [count() for count in counted.values()] == [2, 2, 0, 0, 4]


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_depth_is_shown_while_the_broker_is_open(backend: str, tmp_path: Path) -> None:
    def shown() -> list[float | None]:
        queues = (QUEUE, task_queue("gpu"))
        return [REGISTRY.get_sample_value("troupe_broker_queue_messages", {"queue": queue}) for queue in queues]

    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/broker.db"}[backend]
    async with connected(url) as broker:
        await broker.declare(1, ["gpu"])
        assert shown() == [0, 0]

        await broker.publish(message(1))
        await broker.publish(message(2))
        await broker.publish(message(3), pool="gpu")

        assert shown() == [2, 1]
    assert shown() == [None, None]


class TestAge:
    async def test_it_is_that_of_the_oldest_message(self) -> None:
        clock = FakeClock()
        broker = MemoryBroker(clock)
        await broker.declare(1)
        receiver = Receiver()
        assert _age() == 0
        await broker.publish(message(1))
        clock.advance(5.0)
        await broker.publish(message(2))
        assert _age() == 5

        await broker.consume(QUEUE, receiver)
        await receiver.received(2)
        clock.advance(2.0)
        assert _age() == 7
        receiver.deliveries[0].ack()
        assert _age() == 2
        receiver.deliveries[1].ack()

        assert _age() == 0

    async def test_it_is_known_of_messages_that_are_only_in_the_file(self, tmp_path: Path) -> None:
        clock = FakeClock()
        async with SqliteBroker.opened(tmp_path / "broker.db", clock) as broker:
            await broker.declare(1)
            await broker.publish(message(1))
            clock.advance(5.0)
            await broker.publish(message(2))
            assert _age() == 5
        clock.advance(60.0)

        async with SqliteBroker.opened(tmp_path / "broker.db", clock) as broker:
            await broker.declare(1)
            assert _age() == 65

            receiver = Receiver()
            subscription = await broker.consume(QUEUE, receiver, prefetch=1)
            await receiver.received(1)
            await subscription.cancel()
            receiver.ack_all()

            assert _age() == 60

    async def test_it_is_no_older_than_what_was_delivered_while_the_rest_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given two messages, of which one at a time is in memory
        monkeypatch.setattr(sqlite_box, "WINDOW", 1)
        clock = FakeClock()
        async with SqliteBroker.opened(tmp_path / "broker.db", clock) as broker:
            await broker.declare(1)
            await broker.publish(message(1))
            for sequence in (2, 3):
                clock.advance(10.0)
                await broker.publish(message(sequence))
            # When the second was acked, and the consumer takes no third
            receiver = Receiver()
            subscription = await broker.consume(QUEUE, receiver, prefetch=2)
            await receiver.received(2)
            await subscription.cancel()
            receiver.ack_all()
            # Then the age is that of the second: the third cannot be older
            assert _age() == 10
            # And once the queue was empty, that of the message with which it began to fill again
            receiver = Receiver(on_delivery=Delivery.ack)
            await subscription.close()
            subscription = await broker.consume(QUEUE, receiver)
            await receiver.received(1)
            await subscription.close()
            clock.advance(30.0)
            await broker.publish(message(4))
            clock.advance(1.0)
            assert _age() == 1


def _age() -> float | None:
    return REGISTRY.get_sample_value("troupe_broker_queue_oldest_seconds", {"queue": QUEUE})


async def _publish_many(broker: SqliteBroker) -> None:
    assert list(await broker.publish_many([message(3), message(4)])) == [None, None]
