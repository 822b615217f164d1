"""What opening a broker on RabbitMQ says when it cannot be opened, and what two processes make together."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import REGISTRY
from support import proxy, raw_amqp
from support.brokers import QUEUE, holds
from support.mailboxes import Receiver, message

from troupe.broker.connect import connected
from troupe.broker.port import Delivery
from troupe.broker.rabbitmq import topology
from troupe.broker.rabbitmq.broker import RabbitmqBroker
from troupe.chassis.errors import FailedPrecondition, Unavailable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


PATIENCE = 10.0


async def _open(url: str, patience: float = PATIENCE) -> None:
    async with RabbitmqBroker.opened(url, patience):
        pass


async def test_a_wrong_password_is_said_at_once(amqp_url: str) -> None:
    with pytest.raises(FailedPrecondition, match="refused the user name and password") as refused:
        await _open(amqp_url.replace("guest:guest", "guest:secret"))

    assert "secret" not in str(refused.value)


async def test_a_vhost_that_is_not_there_is_said_at_once(amqp_url: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"has no such vhost.*add_vhost"):
        await _open(amqp_url.rpartition("/")[0] + "/nowhere")


async def test_nobody_listens() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 cannot be reached.*start it"):
        await _open("amqp://127.0.0.1:1", patience=0.5)

    assert 0.4 < time.monotonic() - began < 0.8 * PATIENCE


async def test_a_server_that_comes_late_is_waited_for(amqp_url: str) -> None:
    async with proxy.before(amqp_url) as way:
        way.refuse()
        opening = asyncio.create_task(_open(way.url(amqp_url)))
        while way.accepted < 3:  # noqa: ASYNC110 - a proxy tells nobody
            await asyncio.sleep(0.01)
        way.heal()

        await opening


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x01\x00\x00", b"", b"\x00" * 64])
async def test_what_listens_is_no_rabbitmq(greeting: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(greeting)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises((FailedPrecondition, Unavailable), match=r"speak AMQP|a word of AMQP|cannot be reached"):
            await _open(f"amqp://127.0.0.1:{port}", patience=1.0)


async def test_leaving_closes_every_connection(amqp_url: str) -> None:
    async with proxy.before(amqp_url) as way:
        async with connected(way.url(amqp_url)) as broker:
            await broker.declare(1)
            await broker.consume(QUEUE, Receiver())
            assert way.accepted == 2
        async with asyncio.timeout(10):
            while way.open:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_two_processes_that_declare_at_once_agree(amqp_url: str) -> None:
    async with connected(amqp_url) as one, connected(amqp_url) as other:
        outcomes = await asyncio.gather(one.declare(2), other.declare(3), return_exceptions=True)

        (refused,) = [outcome for outcome in outcomes if outcome is not None]
        assert isinstance(refused, FailedPrecondition)
        assert "shards" in str(refused)


async def test_a_mailbox_passes_from_one_process_to_the_other(amqp_url: str) -> None:
    async with connected(amqp_url) as one, connected(amqp_url) as other:
        await one.declare(1)
        await other.declare(1)
        first, second = Receiver(on_delivery=Delivery.ack), Receiver(on_delivery=Delivery.ack)
        subscription = await one.consume(QUEUE, first)
        await other.consume(QUEUE, second)
        await other.publish(message(1))
        await first.received(1)

        await subscription.close()
        await one.publish(message(2))

        assert await second.received(1) == [2]
        assert first.numbers == [1]


async def test_a_queue_that_is_there_with_other_arguments_is_named(amqp_url: str) -> None:
    with raw_amqp.channel(amqp_url) as channel:
        channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

    async with connected(amqp_url) as broker:
        with pytest.raises(FailedPrecondition, match=QUEUE):
            await broker.declare(1)


async def test_a_fleet_of_128_shards_is_declared_soon_and_again_sooner(amqp_url: str) -> None:
    async with connected(amqp_url) as broker:
        took = []
        for _ in range(4):
            began = time.monotonic()
            await broker.declare(128)
            took.append(time.monotonic() - began)
        assert min(took[1:]) < 0.5 * took[0], took


async def test_a_consumer_that_the_server_forgot_is_there_again(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.broker.rabbitmq.broker.PROBE", 0.1)
    async with connected(amqp_url) as broker:
        await broker.declare(1)
        receiver = Receiver(on_delivery=Delivery.ack)
        subscription = await broker.consume(QUEUE, receiver)
        hold = subscription._hold  # type: ignore[attr-defined]
        # Behind the subscription's back.
        await hold._channel.call(hold._channel.raw.basic_cancel, hold._tag)
        await broker.publish(message(1))

        assert await receiver.received(1) == [1]


async def test_what_a_consumed_mailbox_holds_is_shown(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.broker.rabbitmq.broker.PROBE", 0.05)

    def shown(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"troupe_broker_queue_{name}", {"queue": QUEUE})

    async with connected(amqp_url) as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver, prefetch=2)
        await broker.publish_many([message(sequence) for sequence in range(1, 6)])
        await receiver.received(2)
        async with asyncio.timeout(10):
            while shown("messages") != 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        age = shown("oldest_seconds")
        assert age is not None
        assert 0 < age < 60
    assert shown("messages") is None


async def test_a_letter_for_a_pool_that_nobody_declared_is_kept(amqp_url: str) -> None:
    async with connected(amqp_url) as broker:
        await broker.declare(1)
        with raw_amqp.channel(amqp_url) as channel:
            channel.basic_publish(topology.DEAD, "gpu", b"lost work")
        await broker.declare(1, ["gpu"])

        async with asyncio.timeout(10):
            while True:
                async with broker.dead_letters("gpu") as held:
                    if [each.letter.body async for each in held] == [b"lost work"]:
                        break
                await asyncio.sleep(0.05)
        await holds(broker, 0)
