"""How much memory a worker takes for large messages that wait for slow actors. Real processes."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import redis_server
from support.fleet_processes import FleetProcesses, Process, fleet_processes
from support.pairs import RECORDER
from support.recording_actor import STARTS, Operation

from troupe.broker.addressing import SessionKey
from troupe.broker.connect import connected
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import timestamp
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Content, Envelope, Number

SHARDS, EACH, SIZE = 128, 8, 200 * 1024
"""So many messages wait in each shard, of so many bytes: 200 MiB in all."""
BUDGET = 32 << 20
ALLOWED = 96 << 20
"""Bytes by which a worker may grow: its budget of what is unacked, as much again on its way to the state store, and
what runs."""


@pytest.fixture
async def fleet(tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FleetProcesses]:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    (tmp_path / "starts").touch()
    async with fleet_processes(tmp_path, amqp_url, redis_server.shared().url(uuid7()), SHARDS) as fleet:
        yield fleet


def memory(process: Process, what: str) -> int:
    """Bytes of it that are resident (VmRSS), or were at most (VmHWM)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{process.running.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def one_session_of_each_shard() -> list[SessionKey]:
    keys = (SessionKey("default", "default", "recorder", f"s{number}") for number in range(10_000))
    return list({key.shard(SHARDS): key for key in keys}.values())


def large(key: SessionKey, sequence: int) -> Envelope:
    text = Operation("p", sequence, seconds=0.3).text()
    return Envelope(
        id=f"m{sequence}",
        target=key.ref(),
        number=Number(stream=f"to {key.session}", sequence=sequence),
        kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
        content=Content(text=text.ljust(SIZE)),
        first_sent=timestamp(time.time()),
        expires=timestamp(time.time() + 3600),
    )


async def test_large_messages_that_wait_in_128_shards_take_no_more_than_the_budget_allows(
    fleet: FleetProcesses, amqp_url: str
) -> None:
    """200 MiB that wait made a worker 43 MiB larger with a budget of 32 MiB, and 200 MiB larger with one of 256 MiB."""
    await fleet.control_plane()
    worker = await fleet.worker("w0", unacked_budget=BUDGET)
    await fleet.apply([RECORDER])
    await fleet.settled("w0")
    before, sessions = memory(worker, "VmRSS"), one_session_of_each_shard()
    assert len(sessions) == SHARDS

    # When all mailboxes fill faster than their actors work
    async with connected(amqp_url) as broker:
        await broker.declare(SHARDS)
        for sequence in range(1, EACH + 1):
            await asyncio.gather(*(broker.publish(large(key, sequence)) for key in sessions))

    # Then all is done, and the worker was never larger than that
    async with asyncio.timeout(60):
        while len((fleet.directory / "starts").read_text().splitlines()) < SHARDS * EACH:
            await asyncio.sleep(0.1)
    assert memory(worker, "VmHWM") - before < ALLOWED
