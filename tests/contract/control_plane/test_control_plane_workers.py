"""Workers over gRPC: registered, and brought revisions."""

from pathlib import Path

import pytest
from support.control_planes import Client, control_plane, first, placed, workers
from support.fake_workers import FakeWorker, apply, attempt_at, hang, reject
from support.fleets import fleet

from troupe.chassis.errors import (
    InvalidArgument,
    ResourceExhausted,
)
from troupe.chassis.rpc_client import translated
from troupe.v1.control_plane_pb2 import (
    RegisterRequest,
    WatchStatusResponse,
)
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt
from troupe.v1.turn_pb2 import ErrorDetail


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
        assert placed(placement) == dict.fromkeys(range(128), (1, "worker-0", "first"))
        assert {shard.address for shard in placement.shards} == {worker.address}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("worker_id", ""),
        ("worker_id", "Worker"),
        ("worker_id", "a/b"),
        ("instance_id", ""),
        ("instance_id", "x" * 129),
        ("instance_id", "a\nb"),
        ("address", ""),
        ("address", "host"),
        ("address", "host:0"),
        ("address", "ho\nst:70"),
        ("address", f"{'h' * 300}:70"),
    ],
)
async def test_a_worker_must_say_who_and_where_it_is(client: Client, field: str, value: str) -> None:
    request = RegisterRequest(worker_id="w", instance_id="i", address="host:70")
    setattr(request, field, value)
    with pytest.raises(InvalidArgument) as raised, translated():
        await client.stub.Register(request)
    assert [violation.field for violation in raised.value.violations] == [field]


async def test_a_revision_reaches_every_worker_though_one_hangs_and_one_rejects(tmp_path: Path) -> None:
    fine, stuck, broken = FakeWorker("fine"), FakeWorker("stuck", take=hang), FakeWorker("broken", take=reject)
    async with control_plane(tmp_path, workers=3) as client, workers(fine, stuck, broken):
        for worker in (stuck, broken, fine):
            await client.register(worker)
        one = await client.sync(fleet())
        await fine.until(lambda worker: worker.runs(one.revision_id))
        await stuck.until(lambda worker: len(worker.asked) == 1)

        def refused(piece: WatchStatusResponse) -> bool:
            attempt = piece.worker.report.last_attempt
            return piece.worker.worker_id == "broken" and attempt.phase == ApplyPhase.APPLY_PHASE_ROLLED_BACK

        said = (await first(client, refused)).worker.report.last_attempt
        assert (said.revision_id, said.error.reason) == (one.revision_id, "BROKEN")

        broken.take = apply
        two = await client.sync(fleet(prompt="Better."), parent=one.revision_id)
        await fine.until(lambda worker: worker.runs(two.revision_id))
        await broken.until(lambda worker: worker.runs(two.revision_id))
        assert [config.generation for config in broken.asked] == [1, 2], "what is refused for good is not tried again"
        for worker in (fine, stuck, broken):
            await worker.until(lambda one: bool(one.placements))
        assert len(stuck.asked) == 1, "one Apply is outstanding at a time"


async def test_a_failure_that_may_pass_is_tried_again(client: Client) -> None:
    tries = 0

    async def fail_once(config: ConfigSpec) -> RevisionAttempt:
        nonlocal tries
        tries += 1
        if tries > 1:
            return attempt_at(config)
        return attempt_at(config, ApplyPhase.APPLY_PHASE_ROLLED_BACK, ErrorDetail(reason="BUSY", retryable=True))

    worker = FakeWorker(take=fail_once)
    async with workers(worker):
        await client.register(worker)
        revision = await client.sync(fleet())
        await worker.until(lambda one: one.runs(revision.revision_id))
        assert tries == 2


async def test_revisions_in_quick_succession_are_brought_once_the_newest_only(client: Client) -> None:
    worker = FakeWorker()
    async with workers(worker):
        await client.register(worker)
        await worker.until(lambda one: bool(one.placements))
        parent = ""
        for number in range(5):
            parent = (await client.sync(fleet(prompt=f"Prompt {number}."), parent=parent)).revision_id
        await worker.until(lambda one: one.runs(parent))
        assert len(worker.asked) < 5


async def test_a_worker_that_comes_back_is_found_again(client: Client) -> None:
    worker = FakeWorker()
    async with worker.serving():
        await client.register(worker)
        await worker.until(lambda one: bool(one.placements))
    one = await client.sync(fleet())
    async with worker.serving():
        await client.register(worker)
        await worker.until(lambda worker: worker.runs(one.revision_id))


async def test_another_process_at_a_workers_address_is_brought_nothing(client: Client) -> None:
    stranger = FakeWorker("worker-0", "of another fleet")
    async with workers(stranger):
        request = stranger.registration()
        request.instance_id = "expected"
        await client.stub.Register(request)
        await client.sync(fleet())
        neighbour = FakeWorker("neighbour")
        async with workers(neighbour):
            await client.register(neighbour)
            await neighbour.until(lambda one: bool(one.asked))
        assert (stranger.asked, stranger.placements) == ([], [])


async def test_workers_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_workers=1) as client, workers(FakeWorker("one")):
        await client.stub.Register(RegisterRequest(worker_id="one", instance_id="i", address="127.0.0.1:9"))
        with pytest.raises(ResourceExhausted) as raised, translated():
            await client.stub.Register(RegisterRequest(worker_id="two", instance_id="i", address="127.0.0.1:9"))
        assert raised.value.reason == "TOO_MANY_WORKERS"
