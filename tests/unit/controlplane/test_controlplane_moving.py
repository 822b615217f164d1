"""Leases and shards on their way, over a store and processes in this process, at the pace of a clock."""

import asyncio
from collections.abc import Sequence

import pytest
from support.fake_fleet import LEASE, FakeFleet, Process, owners, settled

from troupe.chassis.errors import NotFound, Unavailable
from troupe.controlplane.placement import Placement
from troupe.controlplane.status import RESTS
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import Deposed
from troupe.v1.status_pb2 import Health, HealthState, ShardState, ShardStatus


def one_owner_each(processes: Sequence[Process]) -> None:
    held = [shard for process in processes for shard in process.holds()]
    assert len(held) == len(set(held)), "no shard is held twice"


async def test_nobody_hears_of_a_placement_that_is_not_stored() -> None:
    class Checked(MemoryRevisionStore):
        async def save_placement(self, placement: Placement, term: int) -> None:
            assert all(p.version < placement.version for process in run.processes.values() for p in process.placements)
            await super().save_placement(placement, term)

    run = FakeFleet(Checked(8))
    async with run.reigning():
        for name in ("a", "b", "c"):
            await run.join(name)
            await run.pass_time(2.0)
        assert sorted(owners(await run.store.placement()).values()) == [2, 3, 3]


async def test_a_shard_moves_only_once_its_owner_has_reported_it_gone() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        await run.pass_time(1.0)
        a.releases = False
        b = await run.join("b")
        await run.pass_time(5.0)
        revoked = [shard for shard in (await run.store.placement()).shards if shard is not None and shard.revoked]
        assert len(revoked) == 4
        assert b.holds() == {}
        one_owner_each([a, b])
        a.releases = True
        await run.pass_time(1.0)
        assert set(b.holds().values()) == {2}, "under the next epoch"
        assert len(b.holds()) == len(a.holds()) == 4
        one_owner_each([a, b])


async def test_a_report_from_before_the_revoke_releases_nothing() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        await run.pass_time(1.0)
        a.releases = False
        await run.join("b")
        await settled()
        older = a.report()
        older.placement.version = 1
        del older.shards[:]
        run.reign.report(a.member, older)
        await run.pass_time(1.0)
        assert owners(await run.store.placement()) == {"a-1": 8}


async def test_an_owner_that_never_lets_go_is_passed_over_after_the_timeout() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        a.releases = False
        b = await run.join("b")
        await run.pass_time(29.0)
        assert b.holds() == {}
        await run.pass_time(2.0)
        assert len(b.holds()) == 4
        assert set(b.holds().values()) == {2}


async def test_a_worker_that_is_silent_for_its_lease_loses_its_shards() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a, b = await run.join("a"), await run.join("b")
        await run.pass_time(20.0)
        run.kill(b, listens=True)
        await run.pass_time(LEASE - 1.0)
        assert owners(await run.store.placement()) == {"a-1": 4, "b-1": 4}
        await run.pass_time(1.5)
        assert owners(await run.store.placement()) == {"a-1": 8}
        assert list(a.placements[-1].live_instance_ids) == ["a-1"]
        b.up = True
        await run.pass_time(10.0)
        assert owners(await run.store.placement()) == {"a-1": 4, "b-1": 4}, "it is back, and gets its share"


async def test_a_worker_whose_listener_is_gone_loses_them_at_once() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        await run.join("a")
        b = await run.join("b")
        await run.pass_time(20.0)
        run.kill(b)
        await run.pass_time(1.2, step=0.1)
        assert owners(await run.store.placement()) == {"a-1": 8}


async def test_but_not_one_that_drains_whose_listener_closes_while_its_turns_still_run() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        b = await run.join("b")
        await run.pass_time(20.0)
        b.releases = False
        assert await run.reign.drain("b") == "b-1"
        await run.pass_time(1.0)
        run.kill(b)
        await run.pass_time(5.0)
        assert owners(await run.store.placement()) == {"a-1": 4, "b-1": 4}
        await run.pass_time(6.0)
        assert owners(await run.store.placement()) == {"a-1": 8}, "its lease is over"
        assert len(a.holds()) == 8


async def test_the_control_plane_coming_back_moves_nothing_for_one_lease() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        a, b = await run.join("a"), await run.join("b")
        await run.pass_time(2.0)
        before = await run.store.placement()
    run.kill(b)
    async with run.reigning():
        await run.pass_time(LEASE - 1.0)
        assert await run.store.placement() == before
        assert list(a.placements[-1].live_instance_ids) == [], "nobody knows yet who is gone"
        assert a.placements[-1].term == 2
        await run.pass_time(2.0)
        assert owners(await run.store.placement()) == {"a-1": 8}


@pytest.mark.parametrize("after", ["revoked", "released", "assigned"])
async def test_a_leader_that_takes_over_in_a_handover_goes_on_from_the_reports(after: str) -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        a = await run.join("a")
        await run.pass_time(1.0)
        a.releases = after == "assigned"
        b = await run.join("b")
        await run.pass_time(0.5)
    if after == "released":
        a.releases = True  # and nobody was there to hear it
    async with run.reigning():
        await run.pass_time(1.0)
        if after == "revoked":
            assert b.holds() == {}
            a.releases = True
            await run.pass_time(1.0)
        assert (len(a.holds()), len(b.holds())) == (4, 4)
        one_owner_each([a, b])


async def test_draining_is_remembered_across_leaders_and_ends_with_the_process() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        a, b = await run.join("a"), await run.join("b")
        await run.pass_time(1.0)
        assert await run.reign.drain("b") == await run.reign.drain("b") == "b-1"
        await run.pass_time(1.0)
        assert (len(a.holds()), len(b.holds())) == (8, 0)
        assert list(a.placements[-1].draining_instance_ids) == ["b-1"]
        with pytest.raises(NotFound):
            await run.reign.drain("c")
    async with run.reigning():
        await run.join("b")
        await run.pass_time(1.0)
        assert list(a.placements[-1].draining_instance_ids) == ["b-1"]
        again = await run.join("b", instance_id="b-2")
        await run.pass_time(1.0)
        assert len(again.holds()) == 4


async def test_a_worker_that_says_that_it_drains_gets_nothing_more() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a, b = await run.join("a"), await run.join("b")
        await run.pass_time(1.0)
        b.health = HealthState.HEALTH_STATE_DRAINING
        await run.pass_time(1.0)
        assert (len(a.holds()), len(b.holds())) == (8, 0)
        assert {worker.member.worker_id: worker.draining for worker in await run.store.workers()} == {
            "a": False,
            "b": True,
        }


async def test_a_worker_in_trouble_keeps_its_shards() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        await run.join("a")
        b = await run.join("b")
        await run.pass_time(1.0)
        b.health = HealthState.HEALTH_STATE_DEGRADED
        await run.pass_time(20.0)
        assert len(b.holds()) == 4


async def test_shards_are_shared_by_weight() -> None:
    async with FakeFleet(MemoryRevisionStore(8), workers=2).reigning() as run:
        await run.join("a", weight=3.0)
        assert (await run.store.placement()).version == 0, "the first split waits for two"
        await run.join("b", weight=1.0)
        await run.pass_time(0.5)
        assert owners(await run.store.placement()) == {"a-1": 6, "b-1": 2}


async def test_workers_lost_before_the_first_split_do_not_count() -> None:
    async with FakeFleet(MemoryRevisionStore(8), workers=2).reigning() as run:
        a = await run.join("a")
        run.kill(a, listens=True)
        await run.pass_time(LEASE + 1.0)
        await run.join("b")
        assert (await run.store.placement()).version == 0
        a.up = True
        await run.pass_time(6.0)
        assert owners(await run.store.placement()) == {"a-1": 4, "b-1": 4}


@pytest.mark.parametrize("store_epoch", [1, 7])
async def test_epochs_go_past_what_the_state_store_has(store_epoch: int) -> None:
    async with FakeFleet(MemoryRevisionStore(4)).reigning() as run:
        a = await run.join("a")
        await settled()
        a.refused = [ShardStatus(shard=2, epoch=1, state=ShardState.SHARD_STATE_REFUSED, store_epoch=store_epoch)]
        await run.pass_time(0.5)
        epochs = {shard.shard: shard.epoch for shard in a.placements[-1].shards}
        assert epochs == {0: 1, 1: 1, 2: store_epoch + 1, 3: 1}
        version = (await run.store.placement()).version
        await run.pass_time(2.0)
        assert (await run.store.placement()).version == version, "a refusal under an epoch that is over says nothing"


async def test_a_placement_whose_write_lost_its_answer_is_taken_up_and_brought() -> None:
    class Flaky(MemoryRevisionStore):
        lose = False

        async def save_placement(self, placement: Placement, term: int) -> None:
            await super().save_placement(placement, term)
            if self.lose:
                self.lose = False
                raise Unavailable("STORE_UNAVAILABLE", "the reply is lost")

    store = Flaky(8)
    async with FakeFleet(store).reigning() as run:
        store.lose = True
        await run.join("a")
        assert run.processes["a-1:70"].placements == []
        await run.pass_time(1.0)
        assert len(run.processes["a-1:70"].holds()) == 8


async def test_a_worker_that_cannot_be_reached_is_dialled_less_and_less_up_to_every_five_seconds() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        run.kill(a, listens=True)
        await run.pass_time(8.0)
        dials = run.dials
        await run.pass_time(50.0)
        assert run.dials - dials == 10


async def test_who_leads_no_more_moves_nothing() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    with pytest.raises(Deposed):
        async with run.reigning():
            await run.join("a")
            await run.join("b")
            await run.pass_time(20.0)
            before = await run.store.placement()
            await run.store.lead(await run.store.leadership(), "another", "there:1")
            run.kill(run.processes["b-1:70"])
            await run.pass_time(20.0)
    assert await run.store.placement() == before


async def test_a_hundred_workers_that_join_at_once_are_placed_in_a_few_steps() -> None:
    async with FakeFleet(MemoryRevisionStore(1_024)).reigning() as run:
        await asyncio.gather(*(run.join(f"w{number:03}") for number in range(100)))
        await run.pass_time(2.0)
        placement = await run.store.placement()
        assert set(owners(placement).values()) <= {10, 11}
        assert placement.version < 20
        one_owner_each(list(run.processes.values()))


async def test_a_worker_that_answers_and_does_not_work_loses_its_shards_and_rests() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a, b = await run.join("a"), await run.join("b")
        await run.pass_time(20.0)
        one, *others = sorted(b.holds())
        before = b.holds()
        # Given one that reports, and hands nothing over
        b.held_up[one], b.releases = run.clock.monotonic(), False
        await run.pass_time(30.0)
        assert owners(await run.store.placement()) == {"a-1": 4, "b-1": 4}
        # When something was held up for too long: that shard is with the other at once, under a new epoch
        await run.pass_time(2.0)
        assert a.holds()[one] == before[one] + 1
        assert not a.holds().keys() & set(others)
        assert list(a.placements[-1].live_instance_ids) == ["a-1"], "nobody waits for its turns"
        (_, shown) = run.status.workers()
        assert shown.report.health == Health(state=HealthState.HEALTH_STATE_DEGRADED, cause=RESTS)
        # And the others as soon as a stalled owner's would be
        await run.pass_time(LEASE)
        assert set(a.holds()) == set(range(8))
        # When it is well again: it rests, and then has its share again
        b.held_up.clear()
        b.releases = True
        await run.pass_time(40.0)
        assert b.holds() == {}
        await run.pass_time(20.0)
        assert owners(await run.store.placement()) == {"a-1": 4, "b-1": 4}
        one_owner_each([a, b])
        assert run.status.workers()[1].report.health.state == HealthState.HEALTH_STATE_HEALTHY


async def test_what_does_not_work_anywhere_moves_nothing() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a, b = await run.join("a"), await run.join("b")
        await run.pass_time(20.0)
        before = await run.store.placement()
        a.held_up[min(a.holds())] = run.clock.monotonic()
        await run.pass_time(12.0)
        b.held_up[min(b.holds())] = run.clock.monotonic()
        await run.pass_time(200.0)
        assert await run.store.placement() == before


async def test_a_worker_alone_keeps_what_it_has() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        a = await run.join("a")
        b = await run.join("b")
        await run.pass_time(20.0)
        b.held_up[min(b.holds())] = run.clock.monotonic()
        await run.pass_time(50.0)
        assert len(a.holds()) == 8
        # When the one that works is gone, the one that rests is better than nobody
        run.kill(a)
        await run.pass_time(2.0, step=0.1)
        assert len(b.holds()) == 8
