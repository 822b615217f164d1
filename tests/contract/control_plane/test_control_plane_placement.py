"""Shards over gRPC: placed on workers, and where they stay."""

from pathlib import Path

import pytest
from support.control_planes import control_plane, placed, workers
from support.fake_workers import FakeWorker
from support.fleets import fleet

from troupe.chassis.errors import (
    FailedPrecondition,
)


async def test_shards_wait_for_the_workers_that_the_fleet_is_set_to_have(tmp_path: Path) -> None:
    one, two, late = FakeWorker("one"), FakeWorker("two"), FakeWorker("late")
    async with control_plane(tmp_path, workers=2, shards=8) as client, workers(one, two, late):
        await client.register(one)
        assert one.placements == []
        await client.register(two)
        await client.register(late)
        for worker in (one, two, late):
            await worker.until(lambda fake: bool(fake.placements))
            owners = [owner for _, owner, _ in placed(worker.placements[-1]).values()]
            assert sorted(owners) == ["one"] * 4 + ["two"] * 4


async def test_a_new_process_of_a_worker_gets_its_shards_under_new_epochs(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    async with control_plane(tmp_path, workers=2, shards=4) as client, workers(one, two):
        await client.register(one)
        await client.register(two)
        await one.until(lambda worker: bool(worker.placements))
        again = FakeWorker("two", "second")
        async with workers(again):
            await client.register(again)
            await again.until(lambda worker: bool(worker.placements))
            expected = {0: (1, "one", "first"), 1: (2, "two", "second"), 2: (1, "one", "first"),
                        3: (2, "two", "second")}  # fmt: skip
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
        before = again.placements[-1]
        async with control_plane(tmp_path) as client:
            assert (await client.revision()).revision == revision
            await again.until(lambda one: len(one.placements) > 1 and one.placements[-1] is not before)
            assert again.placements[-1] == before, "it is brought without being asked for, and nothing moved"
            assert len(again.asked) == 1, "a worker that runs the newest revision is not brought it again"
            await client.register(again)
            next_one = await client.sync(fleet(prompt="Other."), parent=revision.revision_id)
            assert (next_one.generation, next_one.term) == (2, 1)
            await again.until(lambda one: one.runs(next_one.revision_id))
            assert again.placements[-1] == before


async def test_a_fleet_started_with_another_number_of_workers_is_split_anew(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    async with workers(one, two):
        async with control_plane(tmp_path, workers=2, shards=2) as client:
            await client.register(one)
            await client.register(two)
            await one.until(lambda worker: bool(worker.placements))
        async with control_plane(tmp_path, workers=1) as client:
            await client.register(one)
            await one.until(lambda worker: {owner for _, owner, _ in placed(worker.placements[-1]).values()} == {"one"})
            assert sorted(epoch for epoch, _, _ in placed(one.placements[-1]).values()) == [1, 2]
