"""RabbitMQ without Troupe between: what somebody else, or the server itself, does to a fleet's queues."""

import contextlib
from collections.abc import Iterator

import pika
from pika.adapters.blocking_connection import BlockingChannel


@contextlib.contextmanager
def channel(url: str) -> Iterator[BlockingChannel]:
    """A channel in confirm mode. Everything on it blocks."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    finally:
        connection.close()


def send(url: str, queue: str, body: bytes) -> None:
    with channel(url) as opened:
        opened.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
