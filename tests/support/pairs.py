"""Two workers that have half of the shards each, one of them on lines that a test cuts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from support.fleet_processes import FleetProcesses, Held, Process, applied, end, send
from support.fleets import actor
from support.lines import Lines, worker_on_lines
from support.recording_actor import Operation

from troupe.broker.addressing import SessionKey
from troupe.v1 import turn_pb2
from troupe.v1.control_plane_pb2 import WorkerStatus
from troupe.v1.resource_pb2 import ActorSpec
from troupe.v1.status_pb2 import SHARD_STATE_ACTIVE

SHARDS: Final = 8
SPEC = ActorSpec(entry_point="support.recording_actor:Recorder")
RECORDER = actor("recorder", SPEC)
FOR_GOOD: Final = 300.0
"""Seconds of what does not end in these tests."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two workers that have half of the shards each, and one of them on lines."""

    fleet: FleetProcesses
    w0: Process
    w1: Process
    lines: Lines
    before: Held

    async def w0_has_all(self) -> None:
        """Wait until it has."""

        def has_all(workers: Any) -> bool:
            return len(active(workers["w0"])) == SHARDS

        await self.fleet.until(has_all)

    async def newly_placed(self) -> None:
        """Wait until the second worker has its part again: under other epochs than before, whatever it reported
        last."""

        def has_its_part(workers: Any) -> bool:
            held = [active(workers[name]) for name in ("w0", "w1")]
            return (
                held[0].keys() | held[1].keys() == set(range(SHARDS))
                and len(held[0]) == len(held[1])
                and all(epoch > self.before[shard][2] for shard, epoch in held[1].items())
            )

        await self.fleet.until(has_its_part)

    def refused(self) -> set[tuple[int, int]]:
        """Shards and epochs under which the store has refused what either wrote."""
        said = [line for worker in (self.w0, self.w1) for line in worker.events("shard lost to another owner")]
        return {(line["shard"], line["epoch"]) for line in said}

    def owner(self, session: str) -> str:
        """Whose it was in the beginning."""
        return self.before[shard_of(session)][0]


@dataclass(frozen=True, slots=True)
class Long:
    """A message that the second worker is at work on, in a session of no one else."""

    pair: Pair
    session: str
    message_id: str

    @classmethod
    async def begun(cls, pair: Pair, seconds: float, blocks: float = 0.0) -> "Long":
        """One of which each attempt takes so long, once the first one has begun; that one `blocks` its worker."""
        session = next(name for name in (f"long{number}" for number in range(1000)) if pair.owner(name) == "w1")
        long = cls(pair, session, await send(pair.w0, session, Operation("long", 1, seconds=seconds, blocks=blocks)))
        async with asyncio.timeout(20):
            while not long.starts():  # noqa: ASYNC110 - another process writes
                await asyncio.sleep(0.01)
        return long

    @property
    def held(self) -> tuple[int, int]:
        """Its shard, and the epoch under which its first attempt began."""
        shard = shard_of(self.session)
        return shard, self.pair.before[shard][2]

    def starts(self) -> int:
        """Attempts so far."""
        text = (self.pair.fleet.directory / "starts").read_text()
        return sum(line.split()[1] == "long" for line in text.splitlines())

    async def done(self, gateway: Process) -> None:
        """Wait until it is, in so far as this worker is told."""
        assert (await end(gateway, self.session, self.message_id)).fate == turn_pb2.FATE_DONE

    async def check(self, gateway: Process) -> None:
        """It has taken effect, once."""
        assert (await applied(gateway, self.session)).operations == [("long", 1)]


@asynccontextmanager
async def pair(fleet: FleetProcesses, drain_patience: float = 10.0, **settings: Any) -> AsyncIterator[Pair]:
    """With a control plane of these settings. Shards stay with a worker that answers, unless they say otherwise."""
    await fleet.control_plane(**{"workers": 2, "stuck_after": FOR_GOOD, **settings})
    w0 = await fleet.worker("w0")
    async with worker_on_lines(fleet, "w1", drain_patience=drain_patience) as (w1, lines):
        await fleet.apply([RECORDER])
        yield Pair(fleet, w0, w1, lines, await fleet.settled("w0", "w1"))


def active(worker: WorkerStatus) -> dict[int, int]:
    """The epoch of each shard that it has, by its last report."""
    return {shard.shard: shard.epoch for shard in worker.report.shards if shard.state == SHARD_STATE_ACTIVE}


def shard_of(session: str) -> int:
    return SessionKey("default", "default", "recorder", session).shard(SHARDS)
