"""What a broker counts."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from support.mailboxes import Receiver, message, queue_of

from troupe.broker import metrics
from troupe.broker.addressing import SessionKey
from troupe.broker.memory import MemoryBroker
from troupe.broker.port import DeadLetter, Delivery, MailboxFull
from troupe.broker.sqlite import SqliteBroker
from troupe.chassis.errors import Unavailable

QUEUE = queue_of(0)


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


async def test_publishes_that_fail_are_counted_by_kind(tmp_path: Path) -> None:
    kinds = {
        kind: Counted("troupe_broker_publish_failures_total", kind=kind)
        for kind in ("full", "cancelled", "unavailable")
    }
    confirms = Counted("troupe_broker_confirms_total")
    async with SqliteBroker.opened(tmp_path / "broker.db", max_depth=1) as broker:
        await broker.declare(1)
        publisher = asyncio.create_task(broker.publish(message(1)))
        await asyncio.sleep(0)
        publisher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publisher
        await broker.dead_letter(_letter("EXPIRED"))  # written after the message, so that is counted by now
        with pytest.raises(MailboxFull):
            await broker.publish(message(2))
        broker._max_depth = 2
    with pytest.raises(Unavailable):
        await broker.publish(message(2))

    assert {kind: counted() for kind, counted in kinds.items()} == {"full": 1, "cancelled": 1, "unavailable": 1}
    assert confirms() == 0


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


async def test_dead_letters_are_counted_by_reason() -> None:
    expired = Counted("troupe_broker_dead_letters_total", reason="EXPIRED")

    await MemoryBroker().dead_letter(_letter("EXPIRED"))

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


async def test_depth_is_shown_while_the_broker_is_open(tmp_path: Path) -> None:
    def shown() -> float | None:
        return REGISTRY.get_sample_value("troupe_broker_mailbox_messages", {"queue": QUEUE})

    async with SqliteBroker.opened(tmp_path / "broker.db") as broker:
        await broker.declare(1)
        assert shown() == 0

        await broker.publish(message(1))
        await broker.publish(message(2))

        assert shown() == 2
    assert shown() is None


def _letter(reason: str) -> DeadLetter:
    path = SessionKey("default", "default", "clerk", "s").path
    return DeadLetter(b"", "agents", "m", path, reason, "it failed", 1, 1.0, 1.0, "worker-0", "", "")
