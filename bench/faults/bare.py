"""Clients that do nothing but try to commit, until they can: when a server serves again, whoever else waits for it."""

import contextlib
import socket
import time

import pika
from pika.exceptions import AMQPError

EVERY = 0.02
"""Seconds between two tries."""
QUEUE = "bare"


def rabbitmq(url: str) -> float:
    """When a persistent message to a quorum queue was confirmed, on time.monotonic()."""
    while True:
        with contextlib.suppress(AMQPError, OSError), contextlib.closing(_connected(url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
            channel.basic_publish("", QUEUE, b"", pika.BasicProperties(delivery_mode=2))
            return time.monotonic()
        time.sleep(EVERY)


def _connected(url: str) -> pika.BlockingConnection:
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = parameters.blocked_connection_timeout = parameters.stack_timeout = 1.0
    return pika.BlockingConnection(parameters)


def redis(port: int) -> float:
    """When a SET was answered, which is on disk then, on time.monotonic()."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(b"SET bare 1\r\n")
            if connection.recv(64).startswith(b"+OK"):
                return time.monotonic()
        time.sleep(EVERY)
