"""A hundred workers with a DataPlaneService server each: one that hangs and one that rejects delay nobody."""

import asyncio
import time
from pathlib import Path

from support.control_planes import control_plane, first, workers
from support.fake_workers import FakeWorker, apply, hang, reject
from support.fleets import fleet

from troupe.v1.rollout_pb2 import RolloutPolicy, WorkerShare

AT_ONCE = RolloutPolicy(canary=WorkerShare(workers=0), max_unavailable=WorkerShare(percent=100), max_failures=1)


async def test_one_that_hangs_and_one_that_rejects_delay_nobody(tmp_path: Path) -> None:
    fakes = [FakeWorker(f"worker-{number:03}") for number in range(100)]
    hangs, rejects, others = fakes[17], fakes[42], [*fakes[:17], *fakes[18:42], *fakes[43:]]
    async with workers(*fakes), control_plane(tmp_path, shards=200, lease=60.0) as client:
        for fake in fakes:
            await client.register(fake)

        async def brought(prompt: str, parent: str, to: list[FakeWorker]) -> tuple[str, float]:
            began = time.monotonic()
            revision_id = (await client.sync(fleet(prompt=prompt), parent, policy=AT_ONCE)).revision_id
            await asyncio.gather(*(fake.until(lambda fake: fake.runs(revision_id), 30.0) for fake in to))
            return revision_id, time.monotonic() - began

        # Given a fleet in which everybody takes a revision, when one begins to hang and one to reject
        await brought("first", "", fakes)
        parent = (await client.revision()).revision.revision_id
        parent, before = await brought("second", parent, fakes)
        hangs.take, rejects.take = hang, reject
        revision_id, after = await brought("third", parent, others)

        # then the other 98 have the next one as soon as before, and who does not is named.
        assert after < 3 * before + 1.0
        piece = await first(
            client,
            lambda piece: (
                any(row.failed for row in piece.synced.current.rollout.workers)
                or any(row.failed for row in piece.revision.rollout.workers)
            ),
        )
        rollout = (piece.synced.current if piece.HasField("synced") else piece.revision).rollout
        assert [row.worker_id for row in rollout.workers if row.failed] == [rejects.worker_id]

        # And the one after that reaches them all, without waiting for the call that hangs.
        hangs.take = rejects.take = apply
        _, last = await brought("fourth", revision_id, others)
        assert last < 3 * before + 1.0
