"""What nobody of a fleet wrote, in its queues: it is kept where people look, and stops nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pika
import pytest
from support import proxy, raw_amqp
from support.brokers import QUEUE, letters
from support.mailboxes import Receiver, message

from troupe.broker.addressing import task_queue
from troupe.broker.connect import connected
from troupe.broker.port import Broker, Delivery
from troupe.broker.rabbitmq import topology

BODY = b"what is this?"
IN_MILLISECONDS = b"\x04when" + b"T" + (1_700_000_000_000).to_bytes(8)
"""A header of the type that holds seconds."""
NOT_UTF8 = b"\x01\xfft\x01"
"""The name of a header."""


@asynccontextmanager
async def _undisturbed(url: str) -> AsyncIterator[Broker]:
    """A broker that at the end has the connections that it began with, and brings messages."""
    async with proxy.before(url) as way, connected(way.url(url)) as broker:
        await broker.declare(1)
        yield broker
        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)
        await broker.publish(message(1))
        await receiver.received_last(1)
        assert way.accepted == 2


async def _kept(broker: Broker) -> list[bytes]:
    """The bodies of the letters, once there is one."""
    async with asyncio.timeout(10):
        while not (found := await letters(broker)):
            await asyncio.sleep(0.05)
    return [each.body for each in found]


async def test_a_header_that_cannot_be_read_is_left_out(amqp_url: str) -> None:
    async with _undisturbed(amqp_url) as broker:
        with raw_amqp.channel(amqp_url) as channel:
            channel.basic_publish("", QUEUE, message(2).SerializeToString(), raw_amqp.Encoded(IN_MILLISECONDS))
        receiver = Receiver(on_delivery=Delivery.ack)

        subscription = await broker.consume(QUEUE, receiver)

        assert await receiver.received(1) == [2]
        await subscription.close()


async def test_a_letter_with_one_is_shown(amqp_url: str) -> None:
    async with _undisturbed(amqp_url) as broker:
        with raw_amqp.channel(amqp_url) as channel:
            channel.basic_publish(topology.DEAD, "agents", BODY, raw_amqp.Encoded(IN_MILLISECONDS))

        assert await _kept(broker) == [BODY]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"troupe-queue": task_queue("gpu"), "troupe-left": "soon"},
        {"troupe-queue": task_queue("gpu"), "troupe-left": Decimal("1.5")},
        {"troupe-queue": task_queue("gpu"), "troupe-left": None},
        {"troupe-queue": 7, "troupe-left": 7},
        {"troupe-queue": task_queue("x" * 300), "troupe-left": 7},
    ],
)
async def test_a_delay_of_nobodys_ends_as_a_letter(amqp_url: str, headers: dict[str, Any]) -> None:
    async with _undisturbed(amqp_url) as broker:
        with raw_amqp.channel(amqp_url) as channel:
            channel.basic_publish("", topology.RELAY.name, BODY, pika.BasicProperties(headers=headers))

        assert await _kept(broker) == [BODY]


@pytest.mark.parametrize("key", [b"\xff", "troupe.v1.mailbox.007", "troupe.v1.mailbox.٣", "troupe.v1.task.GPU"])
async def test_a_name_that_no_queue_of_a_fleet_has_ends_as_a_letter(amqp_url: str, key: str) -> None:
    async with _undisturbed(amqp_url) as broker:
        with raw_amqp.channel(amqp_url) as channel:
            channel.basic_publish(topology.WORK, key, BODY)

        assert await _kept(broker) == [BODY]


async def test_a_stray_keeps_a_header_whose_name_is_no_text(amqp_url: str) -> None:
    async with _undisturbed(amqp_url) as broker:
        with raw_amqp.channel(amqp_url) as channel:
            channel.basic_publish(
                topology.WORK, task_queue("gpu"), message(2).SerializeToString(), raw_amqp.Encoded(NOT_UTF8)
            )
        receiver = Receiver(on_delivery=Delivery.ack)

        await broker.declare(1, ["gpu"])
        await broker.consume(task_queue("gpu"), receiver)

        assert await receiver.received(1) == [2]
