"""Who is a member and how long it is remembered, over a store and processes in this process, at the pace of a clock."""

import pytest
from support.fake_fleet import LEASE, FakeFleet, owners
from support.fake_workers import attempt_at

from troupe.chassis.errors import FailedPrecondition, ResourceExhausted
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import Health, HealthState


async def test_a_new_process_takes_its_workers_shards_and_the_old_one_may_not_come_back() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        await run.join("a")
        await run.pass_time(1.0)
        again = await run.join("a", instance_id="a-2")
        await run.pass_time(1.0)
        assert set(again.holds().values()) == {2}
        with pytest.raises(FailedPrecondition, match="give it another --worker-id"):
            await run.join("a")
        assert owners(await run.store.placement()) == {"a-2": 8}


async def test_nor_under_another_leader() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        for number in range(1, 5):
            await run.join("a", instance_id=f"a-{number}")
    async with run.reigning():
        for number in range(1, 4):
            with pytest.raises(FailedPrecondition) as refused:
                await run.join("a", instance_id=f"a-{number}")
            assert refused.value.reason == "REPLACED"
        await run.join("a", instance_id="a-4")
        await run.pass_time(1.0)
        assert set(owners(await run.store.placement())) == {"a-4"}


async def test_a_full_fleet_takes_known_workers_only() -> None:
    async with FakeFleet(MemoryRevisionStore(8), max_workers=1).reigning() as run:
        await run.join("a")
        with pytest.raises(ResourceExhausted):
            await run.join("b")
        await run.join("a", instance_id="a-2")


async def test_the_last_attempt_of_a_worker_is_remembered() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        a.attempt = attempt_at(ConfigSpec(revision_id="r", generation=0, term=0))
        await run.pass_time(1.0)
        (known,) = await run.store.workers()
        assert known.last_attempt == a.attempt
        await run.join("a", instance_id="a-2")
        (known,) = await run.store.workers()
        assert (known.member.instance_id, known.last_attempt) == ("a-2", a.attempt)


async def test_a_worker_that_stays_away_without_shards_is_forgotten() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        await run.join("a")
        b = await run.join("b")
        await run.pass_time(20.0)
        run.kill(b)
        await run.pass_time(590.0)
        assert [worker.member.worker_id for worker in await run.store.workers()] == ["a", "b"]
        await run.pass_time(20.0)
        assert [worker.member.worker_id for worker in await run.store.workers()] == ["a"]
        assert [status.worker_id for status in run.status.workers()] == ["a"]
        dials = run.dials
        await run.pass_time(20.0)
        assert run.dials == dials, "its link has ended"


@pytest.mark.parametrize("listens", [False, True], ids=["its listener is gone", "its lease is over"])
async def test_a_worker_that_has_drained_and_left_is_forgotten_at_once(listens: bool) -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        await run.join("a")
        b = await run.join("b")
        await run.pass_time(20.0)
        await run.reign.drain("b")
        await run.pass_time(1.0)
        with run.status.watching() as watch:
            while len(watch):
                await watch.get()
            run.kill(b, listens=listens)
            await run.pass_time(LEASE + 1.0 if listens else 1.5, step=0.1)
            told = [await watch.get() for _ in range(len(watch))]
        assert [piece.removed_worker_id for piece in told if piece.removed_worker_id] == ["b"]
        assert [worker.member.worker_id for worker in await run.store.workers()] == ["a"]
        assert [status.worker_id for status in run.status.workers()] == ["a"]


async def test_a_worker_that_drained_and_is_lost_with_its_shards_is_kept_until_they_are_elsewhere() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        await run.pass_time(20.0)
        await run.reign.drain("a")
        run.kill(a, listens=True)
        await run.pass_time(LEASE + 2.0)
        (shown,) = run.status.workers()
        assert shown.report.health.state == HealthState.HEALTH_STATE_LOST
        await run.join("b")
        await run.pass_time(1.5)
        assert [status.worker_id for status in run.status.workers()] == ["b"]


async def test_a_lost_worker_says_why_and_is_well_again_with_its_next_word() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        await run.pass_time(1.0)
        run.kill(a, listens=True)
        await run.pass_time(LEASE + 1.0)
        (shown,) = run.status.workers()
        assert shown.report.health == Health(state=HealthState.HEALTH_STATE_LOST, cause="no word for 10 s or longer")
        await run.join("a")
        (shown,) = run.status.workers()
        assert shown.report.health.state == HealthState.HEALTH_STATE_HEALTHY
