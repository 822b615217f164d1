"""A worker that others cannot reach, on one line at a time, and one that sleeps past its lease: nothing is lost or
happens twice, and what it writes under an epoch that is over is refused. Real processes, a real RabbitMQ and Redis."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import rabbitmq, redis_server
from support.fleet_processes import FleetProcesses, fleet_processes
from support.fleets import actor
from support.lines import Way, spoil
from support.pairs import FOR_GOOD, RECORDER, SHARDS, SPEC, Long, pair
from support.recording_actor import STARTS
from support.writers import Writers

from troupe.chassis.ids import uuid7


@pytest.fixture
async def fleet(tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FleetProcesses]:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    (tmp_path / "starts").touch()
    async with fleet_processes(tmp_path, amqp_url, redis_server.shared().url(uuid7()), SHARDS) as fleet:
        yield fleet


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
