"""RabbitMQ without Troupe between: what somebody else, or the server itself, does to a fleet's queues."""

import contextlib
import struct
from collections.abc import Iterator

import pika
from pika.adapters.blocking_connection import BlockingChannel


class Encoded(pika.BasicProperties):
    """Properties with headers that pika itself would not write: each a name and a value, encoded."""

    def __init__(self, *headers: bytes) -> None:
        super().__init__()
        self._table = b"".join(headers)

    def encode(self) -> list[bytes]:
        return [struct.pack(">HI", self.FLAG_HEADERS, len(self._table)), self._table]


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
