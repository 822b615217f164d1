"""Shards over gRPC: placed on workers, and where they stay."""

from pathlib import Path

import pytest
from support.control_planes import Client, complete, control_plane, first, placed, workers
from support.fake_workers import FakeWorker
from support.fleets import fleet

from troupe.chassis.errors import (
    FailedPrecondition,
    NotFound,
)


async def test_a_worker_registers_and_gets_its_shards_and_the_revision(client: Client) -> None:
    revision = await client.sync(fleet())
    worker = FakeWorker()
    async with workers(worker):
        lease = await client.register(worker)
        assert (lease.lease.seconds, lease.renew_after.seconds, lease.term) == (10, 3, 1)
        await worker.until(lambda one: one.runs(revision.revision_id) and bool(one.placements))
        assert list(worker.asked[-1].resources) == fleet()
        placement = worker.placements[-1]
        assert (placement.term, placement.version, placement.shard_count) == (1, 1, 128)
        assert placed(placement) == dict.fromkeys(range(128), (1, "worker-0", "worker-0-first"))
        assert {shard.address for shard in placement.shards} == {worker.address}


async def test_shards_wait_for_the_workers_that_the_fleet_is_set_to_have(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    async with control_plane(tmp_path, workers=2, shards=8) as client, workers(one, two):
        await client.register(one)
        assert one.placements == []
        await client.register(two)
        for worker in (one, two):
            await worker.until(lambda fake: bool(fake.placements))
            owners = [owner for _, owner, _ in placed(worker.placements[-1]).values()]
            assert sorted(owners) == ["one"] * 4 + ["two"] * 4


async def test_a_new_process_of_a_worker_gets_its_shards_under_new_epochs(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    async with control_plane(tmp_path, workers=2, shards=4) as client, workers(one, two):
        await client.register(one)
        await client.register(two)
        await one.until(lambda worker: bool(worker.placements))
        before = placed(one.placements[-1])
        again = FakeWorker("two", "two-second")
        async with workers(again):
            await client.register(again)
            await again.until(lambda worker: bool(worker.placements))
            expected = {
                shard: (2, "two", "two-second") if owner == "two" else (epoch, owner, instance)
                for shard, (epoch, owner, instance) in before.items()
            }
            assert sorted(owner for _, owner, _ in expected.values()) == ["one", "one", "two", "two"]
            assert placed(again.placements[-1]) == expected
            await one.until(lambda worker: placed(worker.placements[-1]) == expected)
            with pytest.raises(FailedPrecondition, match="another process has registered as two since"):
                await client.register(two)


async def test_a_restarted_control_plane_has_the_same_revision_placement_and_epochs(tmp_path: Path) -> None:
    worker, again = FakeWorker(), FakeWorker(instance_id="second")
    async with workers(worker, again):
        async with control_plane(tmp_path) as client:
            revision = await client.sync(fleet())
            await client.register(worker)
            await client.register(again)
            await again.until(lambda one: one.runs(revision.revision_id) and bool(one.placements))
            revision = await complete(client, revision.revision_id)
        before = again.placements[-1]
        async with control_plane(tmp_path) as client:
            assert (await client.revision()).revision == revision
            await again.until(lambda one: one.placements[-1].term == 2)
            assert placed(again.placements[-1]) == placed(before), "brought without being asked for, nothing moved"
            assert again.placements[-1].version == before.version
            assert len(again.asked) == 1, "a worker that runs the newest revision is not brought it again"
            await client.register(again)
            next_one = await client.sync(fleet(prompt="Other."), parent=revision.revision_id)
            assert (next_one.generation, next_one.term) == (2, 2)
            await again.until(lambda one: one.runs(next_one.revision_id))
            assert placed(again.placements[-1]) == placed(before)


async def test_a_worker_that_joins_gets_its_share_from_one_that_hands_it_over(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    async with control_plane(tmp_path, shards=8) as client, workers(one, two):
        await client.register(one)
        await one.until(lambda worker: len(worker.shards()) == 8)
        one.releases = False
        await client.register(two)
        await one.until(lambda worker: sum(shard.revoked for shard in worker.placements[-1].shards) == 4)
        await two.until(lambda worker: bool(worker.placements))
        assert two.shards() == [], "nobody has a shard that its owner has not let go"
        one.releases = True
        await one.report()
        await two.until(lambda worker: len(worker.shards()) == 4)
        assert {shard.epoch for shard in two.shards()} == {2}
        assert {shard.epoch for shard in one.shards()} == {1}


async def test_an_owner_that_never_lets_go_is_passed_over_in_the_end(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    one.releases = False
    async with control_plane(tmp_path, shards=8, release_timeout=0.5) as client, workers(one, two):
        await client.register(one)
        await client.register(two)
        await two.until(lambda worker: len(worker.shards()) == 4)


async def test_a_worker_that_drains_hands_all_over_and_gets_nothing_more(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    async with control_plane(tmp_path, workers=2, shards=8) as client, workers(one, two):
        for worker in (one, two):
            await client.register(worker)
        await one.until(lambda worker: len(worker.shards()) == 4)
        for _ in range(2):
            assert (await client.drain("one")).instance_id == one.instance_id
        await one.until(lambda worker: list(worker.placements[-1].draining_instance_ids) == [worker.instance_id])
        await two.until(lambda worker: len(worker.shards()) == 8)
        assert one.shards() == []
        for unknown in ("three", "", "x" * 10_000):
            with pytest.raises(NotFound):
                await client.drain(unknown)
    async with control_plane(tmp_path) as client, workers(one, two):
        request = one.registration()
        await client.register(one)
        shown = await first(client, lambda piece: piece.worker.address == request.address)
        assert shown.worker.report.instance_id == one.instance_id, "it drains still"
        with pytest.raises(TimeoutError):
            await one.until(lambda worker: bool(worker.shards()), timeout=0.5)
