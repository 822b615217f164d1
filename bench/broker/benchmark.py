"""`B=broker`: mailboxes and task queues on RabbitMQ beside the field, and the embedded broker."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.rabbitmq import Node

from bench.broker import embedded, retries, session, throughput
from bench.rows import Row

INCLUDES = """\
Included: the client and the server, beside each other on this machine; durable queues (quorum, but for Dramatiq, which
has no setting for them), persistent messages with 256 bytes of payload, `mandatory` where the client has it, a confirm
before a publish counts, an ack with each handled message, and each framework's own encoding. Each contender is one
process, alone in a new vhost, in rounds (A B C A B C ...); the first second of publishing and the first tenth of
consuming are not counted. After each run the server says whether the queue holds what was confirmed, and nothing of
what was acked.
Not included: state, commits, inboxes and turns (B=turns); a network; a cluster; several processes."""


def measure(rounds: int, seconds: float) -> Iterator[list[Row]]:
    """All rows, as each part is done. Publishing is measured for `seconds` in each of the `rounds`."""
    node = Node()
    try:
        node.start()
        yield throughput.measure(node, rounds, seconds)
        yield session.measure(node, rounds)
        yield asyncio.run(retries.measure(node.vhost(), rounds))
    finally:
        node.close()
    # Beside the results: a temporary directory may be in memory, where fsync costs nothing.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1]) as directory:
        yield embedded.measure(Path(directory), rounds, seconds)
