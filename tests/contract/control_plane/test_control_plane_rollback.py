"""Rollback as a client sees it."""

import pytest
from support.control_planes import Client, complete, workers
from support.fake_workers import FakeWorker
from support.fleets import fleet

from troupe.chassis.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
)
from troupe.chassis.ids import uuid7
from troupe.v1.rollout_pb2 import RolloutStage


async def test_a_revision_is_left_for_the_one_that_was_complete_before(client: Client) -> None:
    worker = FakeWorker()
    async with workers(worker):
        await client.register(worker)
        one = await client.sync(fleet())
        with pytest.raises(FailedPrecondition) as nowhere:
            await client.roll_back(one.revision_id)
        assert nowhere.value.reason == "NO_WAY_BACK"
        await complete(client, one.revision_id)
        two = await client.sync(fleet(prompt="Other."), parent=one.revision_id)
        await complete(client, two.revision_id)
        back_id = uuid7()
        back = await client.roll_back(two.revision_id, revision_id=back_id)
        assert (back.generation, back.content_hash, back.current) == (3, one.content_hash, True)
        await worker.until(lambda fake: fake.runs(back_id))
        await complete(client, back_id)
        again = await client.roll_back(two.revision_id, revision_id=back_id)
        assert (again.revision_id, again.generation) == (back_id, 3)
        with pytest.raises(Aborted) as stale:
            await client.roll_back(two.revision_id)
        assert stale.value.metadata["current_revision_id"] == back_id
        left = (await client.revision(two.revision_id)).revision.rollout
        assert left.stage == RolloutStage.ROLLOUT_STAGE_ROLLED_BACK


@pytest.mark.parametrize("hostile", ["", "x" * 100_000, "\x00", "../../etc"])
async def test_a_rollback_of_nonsense_is_refused(client: Client, hostile: str) -> None:
    with pytest.raises((InvalidArgument, Aborted)):
        await client.roll_back(hostile, to=hostile, revision_id=hostile)
    with pytest.raises((InvalidArgument, Aborted)):
        await client.roll_back(hostile, to=hostile)
