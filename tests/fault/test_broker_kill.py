"""kill -9 of the process in the middle of 10,000 publishes: what was confirmed is there, in order, once."""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from support import publishing
from support.brokers import letters
from support.mailboxes import queue_of

from troupe.broker.addressing import task_queue
from troupe.broker.port import Delivery
from troupe.broker.sqlite import SqliteBroker
from troupe.v1.envelope_pb2 import Envelope

SHARDS, PUBLISHERS, EACH = 8, 64, 157
Numbers = dict[str, list[int]]
"""Sequences by stream, as they came."""


@pytest.mark.parametrize("seed", range(4))
async def test_every_confirmed_message_is_there_in_order_and_once(tmp_path: Path, seed: int) -> None:
    confirmed = _publish_and_kill(tmp_path / "broker.db", _some_line(seed), "publish")["confirmed"]

    found = await _found(tmp_path / "broker.db")

    for stream, sequences in found.items():
        assert sequences == list(range(1, len(sequences) + 1)), f"stream {stream} has a gap, or a message twice"
    for stream, sequences in confirmed.items():
        assert set(sequences) <= set(found[stream]), f"confirmed messages of stream {stream} are lost"


@pytest.mark.parametrize("seed", range(4, 7))
async def test_a_consumer_that_dies_too_leaves_what_it_had_not_acked(tmp_path: Path, seed: int) -> None:
    told = _publish_and_kill(tmp_path / "broker.db", _some_line(seed), "consume")

    found = await _found(tmp_path / "broker.db")

    for stream, sequences in found.items():
        assert sequences == sorted(set(sequences)), f"stream {stream} is out of order, or has a message twice"
    for stream, sequences in told["confirmed"].items():
        lost = set(sequences) - set(told["acked"][stream]) - set(found[stream])
        assert not lost, f"confirmed messages of stream {stream} are lost: {lost}"


@pytest.mark.parametrize("seed", range(7, 10))
async def test_tasks_that_were_put_off_or_given_up_are_there_too(tmp_path: Path, seed: int) -> None:
    told = {
        what: {(stream, sequence) for stream, sequences in numbers.items() for sequence in sequences}
        for what, numbers in _publish_and_kill(tmp_path / "broker.db", 500 + _some_line(seed), "work").items()
    }
    assert all(told.values()), "it was killed before it had done each of them"

    async with SqliteBroker.opened(tmp_path / "broker.db") as broker:
        await broker.declare(SHARDS, [publishing.POOL])
        ids = Counter(letter.message_id for letter in await letters(broker, publishing.POOL))
        attempts: dict[tuple[str, int], int] = {}
        wanted = told["confirmed"] - told["acked"] - told["buried"]
        everything = asyncio.Event()

        def take(delivery: Delivery) -> None:
            envelope = Envelope.FromString(delivery.body)
            number = (envelope.number.stream, envelope.number.sequence)
            attempts[number] = max(envelope.attempt, attempts.get(number, 0))
            delivery.ack()
            if wanted <= attempts.keys() and all(attempts[each] == 1 for each in put_off):
                everything.set()

        put_off = told["deferred"] - told["acked"]
        await broker.consume(task_queue(publishing.POOL), take)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await everything.wait()

    assert not wanted - attempts.keys(), "confirmed tasks are lost"
    assert {attempts.get(each) for each in put_off} <= {1}, "tasks that were put off did not come as their next attempt"
    for stream, sequence in told["buried"]:
        assert ids[f"{stream}-{sequence}"] == 1, "a letter is lost, or was kept twice"


def _some_line(seed: int) -> int:
    return random.Random(seed).randrange(PUBLISHERS * EACH // 2)


def _publish_and_kill(file: Path, after: int, mode: str) -> dict[str, Numbers]:
    """What the program said that was confirmed, acked, deferred and buried, until it was killed. It is ahead of the
    line `after` by what the pipe holds."""
    told: dict[str, Numbers] = {what: defaultdict(list) for what in ("confirmed", "acked", "deferred", "buried")}
    program = [sys.executable, publishing.__file__, str(file), str(SHARDS), str(PUBLISHERS), str(EACH), mode]
    paths = os.pathsep.join([str(Path(publishing.__file__).parents[1]), *sys.path])
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
    ) as process:
        assert process.stdout is not None
        for line, text in enumerate(process.stdout):
            if line == after:
                process.kill()
            what, stream, sequence = text.split()
            told[what][stream].append(int(sequence))
    assert process.returncode == -9, "it had ended before it was killed"
    return told


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
