"""kill -9 of the process in the middle of 10,000 publishes: what was confirmed is there, in order, once."""

import asyncio
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from support import publishing
from support.mailboxes import queue_of

from troupe.broker.port import Delivery
from troupe.broker.sqlite import SqliteBroker
from troupe.v1.envelope_pb2 import Envelope

SHARDS, PUBLISHERS, EACH = 8, 64, 157
Numbers = dict[str, list[int]]
"""Sequences by stream, as they came."""


@pytest.mark.parametrize("seed", range(4))
async def test_every_confirmed_message_is_there_in_order_and_once(tmp_path: Path, seed: int) -> None:
    confirmed, _ = _publish_and_kill(tmp_path / "broker.db", _some_line(seed), consume=False)

    found = await _found(tmp_path / "broker.db")

    for stream, sequences in found.items():
        assert sequences == list(range(1, len(sequences) + 1)), f"stream {stream} has a gap, or a message twice"
    for stream, sequences in confirmed.items():
        assert set(sequences) <= set(found[stream]), f"confirmed messages of stream {stream} are lost"


@pytest.mark.parametrize("seed", range(4, 7))
async def test_a_consumer_that_dies_too_leaves_what_it_had_not_acked(tmp_path: Path, seed: int) -> None:
    confirmed, acked = _publish_and_kill(tmp_path / "broker.db", _some_line(seed), consume=True)

    found = await _found(tmp_path / "broker.db")

    for stream, sequences in found.items():
        assert sequences == sorted(set(sequences)), f"stream {stream} is out of order, or has a message twice"
    for stream, sequences in confirmed.items():
        lost = set(sequences) - set(acked[stream]) - set(found[stream])
        assert not lost, f"confirmed messages of stream {stream} are lost: {lost}"


def _some_line(seed: int) -> int:
    return random.Random(seed).randrange(PUBLISHERS * EACH // 2)


def _publish_and_kill(file: Path, after: int, *, consume: bool) -> tuple[Numbers, Numbers]:
    """What the publishers said was confirmed, and the consumer that it acked, until they were killed. They are ahead
    of the line `after` by what the pipe holds."""
    told: dict[str, Numbers] = {"confirmed": defaultdict(list), "acked": defaultdict(list)}
    program = [sys.executable, publishing.__file__, str(file), str(SHARDS), str(PUBLISHERS), str(EACH)]
    paths = os.pathsep.join([str(Path(publishing.__file__).parents[1]), *sys.path])
    with subprocess.Popen(
        [*program, "consume" if consume else "publish"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    ) as process:
        assert process.stdout is not None
        for line, text in enumerate(process.stdout):
            if line == after:
                process.kill()
            what, stream, sequence = text.split()
            told[what][stream].append(int(sequence))
    assert process.returncode == -9, "it had ended before it was killed"
    return told["confirmed"], told["acked"]


async def _found(file: Path) -> Numbers:
    """What a consumer gets from the file that was left, until all mailboxes are empty."""
    found: Numbers = defaultdict(list)
    waiting = 0
    everything = asyncio.Event()

    def take(delivery: Delivery) -> None:
        nonlocal waiting
        assert delivery.redeliveries == 1, "nobody knows whether it was delivered before"
        number = Envelope.FromString(delivery.body).number
        found[number.stream].append(number.sequence)
        delivery.ack()
        waiting -= 1
        if waiting == 0:
            everything.set()

    async with SqliteBroker.opened(file) as broker:
        await broker.declare(SHARDS)
        queues = [queue_of(shard) for shard in range(SHARDS)]
        waiting = sum([(await broker.depth(queue)).messages for queue in queues])
        for queue in queues:
            await broker.consume(queue, take)
        async with asyncio.timeout(20):
            await everything.wait()
        assert sum([(await broker.depth(queue)).messages for queue in queues]) == 0
    return found
