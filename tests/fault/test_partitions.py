"""A worker that others cannot reach, on one line at a time, and one that sleeps past its lease: nothing is lost or
happens twice, and what it writes under an epoch that is over is refused. Real processes, a real RabbitMQ and Redis."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import rabbitmq, redis_server
from support.fleet_processes import FleetProcesses, Held, Process, applied, end, fleet_processes, send
from support.fleets import actor
from support.lines import Lines, Way, spoil, worker_on_lines
from support.recording_actor import STARTS, Operation
from support.writers import Writers

from troupe.broker.addressing import SessionKey
from troupe.chassis.ids import uuid7
from troupe.v1 import turn_pb2
from troupe.v1.control_plane_pb2 import WorkerStatus
from troupe.v1.resource_pb2 import ActorSpec
from troupe.v1.status_pb2 import SHARD_STATE_ACTIVE

pytestmark = pytest.mark.timeout(180)

SHARDS = 8
FOR_GOOD = 300.0
"""A lease that does not end in these tests."""
SPEC = ActorSpec(entry_point="support.recording_actor:Recorder")
RECORDER = actor("recorder", SPEC)


@pytest.fixture
async def fleet(tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FleetProcesses]:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    (tmp_path / "starts").touch()
    async with fleet_processes(tmp_path, amqp_url, redis_server.shared().url(uuid7()), SHARDS) as fleet:
        yield fleet


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
    async def begun(cls, pair: Pair, seconds: float) -> "Long":
        """One of which each attempt takes so long, once the first one has begun."""
        session = next(name for name in (f"long{number}" for number in range(1000)) if pair.owner(name) == "w1")
        long = cls(pair, session, await send(pair.w0, session, Operation("long", 1, seconds=seconds)))
        async with asyncio.timeout(20):
            while not long.starts():
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
    """With a control plane of these settings."""
    await fleet.control_plane(workers=2, **settings)
    w0 = await fleet.worker("w0")
    async with worker_on_lines(fleet, "w1", drain_patience=drain_patience) as (w1, lines):
        await fleet.apply([RECORDER])
        yield Pair(fleet, w0, w1, lines, await fleet.settled("w0", "w1"))


def active(worker: WorkerStatus) -> dict[int, int]:
    """The epoch of each shard that it has, by its last report."""
    return {shard.shard: shard.epoch for shard in worker.report.shards if shard.state == SHARD_STATE_ACTIVE}


def shard_of(session: str) -> int:
    return SessionKey("default", "default", "recorder", session).shard(SHARDS)


def connections(node: rabbitmq.Node, url: str) -> int:
    """How many the broker has, in this vhost."""
    vhost = url.rpartition("/")[2]
    return int(
        node.evaluate(
            "length([Pid || Pid <- rabbit_networking:connections(), "
            f'[{{vhost, <<"{vhost}">>}}] =:= rabbit_networking:connection_info(Pid, [vhost])])'
        )
    )


@pytest.mark.parametrize("way", ["silent", "refused"])
async def test_shards_leave_a_worker_that_the_control_plane_cannot_hear(fleet: FleetProcesses, way: Way) -> None:
    async with pair(fleet) as two:
        async with Writers([two.w0]).writing() as writers:
            long = await Long.begun(two, seconds=6.0)
            # When worker and control plane cannot hear each other, and nothing else is the matter
            two.lines.leave_control_plane(way)
            # Then the other worker has all shards, and what the first one was at work on has no effect there
            await two.w0_has_all()
            await long.done(two.w0)
            assert long.starts() == 2, "its first attempt was refused, and the new owner has made another"
            assert long.held in two.refused()
            await writers.more(3)
            # And when they hear each other again, it is given shards, under epochs of their own
            two.lines.return_to_control_plane()
            await two.newly_placed()
            await writers.more(3)
        assert two.w1.runs
        await long.check(two.w1)
        await writers.check(two.w1)


@pytest.mark.parametrize("way", ["silent", "refused"])
async def test_a_worker_without_its_control_plane_serves_on_while_its_lease_lasts(
    fleet: FleetProcesses, way: Way
) -> None:
    async with pair(fleet, lease=FOR_GOOD) as two:
        spoil(two.lines.to_control_plane, way)
        # Silent in any case: where connections are refused the process has ended, and its lease with it.
        spoil(two.lines.from_control_plane, "silent")
        async with Writers([two.w0, two.w1]).writing() as writers:
            await writers.more(10)
        assert await fleet.held() == two.before
        two.lines.return_to_control_plane()
        await writers.check(two.w1)
        assert two.refused() == set()


async def test_a_lease_lasts_as_long_as_the_worker_is_heard_on_one_line(fleet: FleetProcesses) -> None:
    lease = 8.0
    async with pair(fleet, lease=lease) as two:
        to, from_ = two.lines.to_control_plane, two.lines.from_control_plane
        async with Writers([two.w0, two.w1]).writing() as writers:
            for number, (silent, other, way) in enumerate(((from_, to, "deaf"), (to, from_, "mute"))):
                # When the worker hears nothing, and is heard on one line: it registers, or it reports
                spoil(silent, "silent")
                spoil(other, way)
                await asyncio.sleep(lease * 1.25)
                # Then nothing has moved
                assert await fleet.held() == two.before
                await writers.more(3)
                # And once it hears again it gets what is new
                two.lines.return_to_control_plane()
                await fleet.apply([RECORDER, actor(f"another{number}", SPEC)])
                assert await fleet.settled("w0", "w1") == two.before
        await writers.check(two.w1)
        assert two.refused() == set()


async def test_a_worker_that_does_not_hear_what_it_is_to_give_up_loses_it(fleet: FleetProcesses) -> None:
    async with pair(fleet, drain_patience=60.0, lease=FOR_GOOD, release_timeout=2) as two:
        async with Writers([two.w0]).writing() as writers:
            long = await Long.begun(two, seconds=6.0)
            # When a worker that does not hear the control plane, and is heard, is to give up its shards
            spoil(two.lines.from_control_plane, "mute")
            await fleet.drain("w1")
            # Then another has them after a while, and what the first one writes is refused
            await two.w0_has_all()
            await long.done(two.w0)
            assert long.starts() == 2
            assert long.held in two.refused()
            await writers.more(3)
            assert two.w1.runs
            # And once it hears, it leaves in good order
            two.lines.from_control_plane.heal()
            assert await two.w1.ended() == 0
            await writers.more(3)
        await long.check(two.w0)
        await writers.check(two.w0)


@pytest.mark.parametrize("way", ["silent", "deaf", "mute", "refused"])
async def test_a_worker_that_the_broker_has_given_up_goes_on_where_it_was(
    fleet: FleetProcesses, rabbitmq_node: rabbitmq.Node, way: Way
) -> None:
    async with pair(fleet, lease=FOR_GOOD) as two:
        async with Writers([two.w0]).writing() as writers:
            long = await Long.begun(two, seconds=1.5)
            left = connections(rabbitmq_node, fleet.broker) - two.lines.broker.open
            # When worker and broker do not hear each other, until the broker has closed what it had with the worker
            spoil(two.lines.broker, way)
            async with asyncio.timeout(40):
                while connections(rabbitmq_node, fleet.broker) > left:
                    await asyncio.sleep(0.1)
            # Then the turn that was under way has its effect all the same, and other sessions go on
            await long.done(two.w1)
            await writers.more(3, {name for name in writers.sent if two.owner(name) == "w0"})
            # And when they do, what comes a second time has no further effect, and nothing has moved
            two.lines.broker.heal()
            await writers.more(3)
        await long.check(two.w1)
        await writers.check(two.w1)
        assert long.starts() == 1
        assert await fleet.held() == two.before
        assert two.refused() == set()


@pytest.mark.parametrize("way", ["silent", "deaf", "mute", "refused"])
async def test_a_worker_that_cannot_reach_the_store_writes_when_it_can(fleet: FleetProcesses, way: Way) -> None:
    async with pair(fleet, lease=FOR_GOOD) as two:
        long = await Long.begun(two, seconds=1.5)
        # When worker and store do not hear each other, until the one turn that is under way could not be committed
        spoil(two.lines.store, way)
        async with Writers([two.w0]).writing() as writers, asyncio.timeout(60):
            while not any(line["what"] == "commit" for line in two.w1.events("cannot persist, trying again")):
                await asyncio.sleep(0.1)
            # Then other sessions go on
            await writers.more(3, {name for name in writers.sent if two.owner(name) == "w0"})
            # And when they do, the turn has its one effect, and nothing has moved
            two.lines.store.heal()
            await long.done(two.w0)
            await writers.more(3)
        await long.check(two.w1)
        await writers.check(two.w1)
        assert long.starts() == 1
        assert await fleet.held() == two.before
        assert two.refused() == set()


async def test_what_comes_to_the_store_after_the_shards_have_moved_changes_nothing(fleet: FleetProcesses) -> None:
    async with pair(fleet) as two:
        async with Writers([two.w0]).writing() as writers:
            long = await Long.begun(two, seconds=1.5)
            # Given a worker whose writes are on their way to the store, and that has lost its shards meanwhile
            spoil(two.lines.store, "mute")
            two.lines.leave_control_plane("silent")
            await two.w0_has_all()
            assert long.starts() == 1
            # When they arrive
            two.lines.store.heal()
            # Then they are refused, and the new owner does it all again
            await long.done(two.w0)
            assert long.starts() == 2
            assert long.held in two.refused()
            await writers.more(3)
            two.lines.return_to_control_plane()
            await two.newly_placed()
            await writers.more(3)
        await long.check(two.w1)
        await writers.check(two.w1)


async def test_a_worker_that_slept_past_its_lease_writes_nothing_for_the_shards_it_had(fleet: FleetProcesses) -> None:
    async with pair(fleet) as two:
        async with Writers([two.w0]).writing() as writers:
            long = await Long.begun(two, seconds=3.0)
            # When a worker stops in the middle of a turn, and its lease ends
            two.w1.signal(signal.SIGSTOP)
            await two.w0_has_all()
            assert long.starts() == 1
            # Then it goes on, and has nothing to say in what it had: the new owner does the turn
            two.w1.signal(signal.SIGCONT)
            await long.done(two.w0)
            assert long.starts() == 2
            # And it is given shards, under epochs of their own
            await two.newly_placed()
            await writers.more(3)
        assert two.w1.runs
        await long.check(two.w1)
        await writers.check(two.w1)
