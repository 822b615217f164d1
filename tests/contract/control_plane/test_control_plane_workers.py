"""Workers over gRPC: registered, and brought revisions."""

from pathlib import Path

import pytest
from support.control_planes import AT_ONCE, Client, control_plane, first, workers
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
        ("labels", {f"l{number}": "" for number in range(33)}),
        ("labels", {"": "x"}),
        ("labels", {"l": "x" * 64}),
        ("labels[troupe.dev/weight]", {"troupe.dev/weight": "heavy"}),
        ("labels[troupe.dev/weight]", {"troupe.dev/weight": "nan"}),
        ("labels[troupe.dev/weight]", {"troupe.dev/weight": "1001"}),
    ],
)
async def test_a_worker_must_say_who_and_where_it_is(client: Client, field: str, value: str | dict[str, str]) -> None:
    said = {"worker_id": "w", "instance_id": "i", "address": "host:70"} | {field.partition("[")[0]: value}
    request = RegisterRequest(**said)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as raised, translated():
        await client.stub.Register(request)
    assert [violation.field for violation in raised.value.violations] == [field]


async def test_a_revision_reaches_every_worker_though_one_hangs_and_one_rejects(tmp_path: Path) -> None:
    fine, stuck, broken = FakeWorker("fine"), FakeWorker("stuck", take=hang), FakeWorker("broken", take=reject)
    async with control_plane(tmp_path, workers=3) as client, workers(fine, stuck, broken):
        for worker in (stuck, broken, fine):
            await client.register(worker)
        one = await client.sync(fleet(), policy=AT_ONCE)
        await fine.until(lambda worker: worker.runs(one.revision_id))
        await stuck.until(lambda worker: len(worker.asked) == 1)

        def refused(piece: WatchStatusResponse) -> bool:
            attempt = piece.worker.report.last_attempt
            return piece.worker.worker_id == "broken" and attempt.phase == ApplyPhase.APPLY_PHASE_ROLLED_BACK

        said = (await first(client, refused)).worker.report.last_attempt
        assert (said.revision_id, said.error.reason) == (one.revision_id, "BROKEN")

        broken.take = apply
        two = await client.sync(fleet(prompt="Better."), parent=one.revision_id, policy=AT_ONCE)
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
        neighbour = FakeWorker("neighbour")
        async with workers(neighbour):
            await client.register(neighbour)
            await neighbour.until(lambda one: bool(one.placements))
            await client.sync(fleet())
            await neighbour.until(lambda one: bool(one.asked))
        assert (stranger.asked, stranger.placements) == ([], [])


async def test_a_worker_whose_listener_is_gone_is_lost_before_its_lease_is_over(tmp_path: Path) -> None:
    one, two = FakeWorker("one"), FakeWorker("two")
    async with control_plane(tmp_path, workers=2, shards=8, lease=4.0, renew_after=0.5) as client, workers(two):
        async with one.serving():
            for worker in (one, two):
                await client.register(worker)
            await one.until(lambda worker: bool(worker.placements))
            # After one lease of this leader, in which nobody is missed.
            await two.until(lambda worker: any(len(each.live_instance_ids) == 2 for each in worker.placements))
        await two.until(lambda worker: len(worker.shards()) == 8)
        lost = await first(client, lambda piece: piece.worker.worker_id == "one")
        assert lost.worker.report.health.cause == "nobody listens at its address any more"


async def test_workers_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_workers=1) as client, workers(FakeWorker("one")):
        await client.stub.Register(RegisterRequest(worker_id="one", instance_id="i", address="127.0.0.1:9"))
        with pytest.raises(ResourceExhausted) as raised, translated():
            await client.stub.Register(RegisterRequest(worker_id="two", instance_id="i", address="127.0.0.1:9"))
        assert raised.value.reason == "TOO_MANY_WORKERS"
