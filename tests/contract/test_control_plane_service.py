"""A control plane over gRPC, with workers that serve a real DataPlaneService in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from support.fake_workers import FakeWorker, apply, attempt_at, hang, reject
from support.fleets import agent, fleet, model

from troupe.chassis import rpc_client
from troupe.chassis.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import translated
from troupe.controlplane.process import running
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.v1.control_plane_pb2 import (
    GetRevisionRequest,
    ListRevisionsRequest,
    RegisterRequest,
    RevisionInfo,
    SyncRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.resource_pb2 import AgentSpec, ConfigSpec, Resource
from troupe.v1.status_pb2 import ApplyPhase, HealthState, RevisionAttempt
from troupe.v1.turn_pb2 import ErrorDetail


class Client:
    """The calls of a test on one control plane; errors are those that it raised."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = ControlPlaneServiceStub(channel)

    async def sync(
        self, resources: list[Resource], parent: str = "", revision_id: str = "", *, validate_only: bool = False
    ) -> RevisionInfo:
        request = SyncRequest(
            revision_id=revision_id or uuid7(),
            parent_revision_id=parent,
            resources=resources,
            validate_only=validate_only,
        )
        with translated():
            return (await self.stub.Sync(request)).revision

    async def register(self, worker: FakeWorker) -> Any:
        with translated():
            return await self.stub.Register(worker.registration())

    async def revisions(self, **fields: Any) -> Any:
        with translated():
            return await self.stub.ListRevisions(ListRevisionsRequest(**fields))

    async def revision(self, revision_id: str = "") -> Any:
        with translated():
            return await self.stub.GetRevision(GetRevisionRequest(revision_id=revision_id))

    async def watch(self) -> AsyncIterator[WatchStatusResponse]:
        with translated():
            async for piece in self.stub.WatchStatus(WatchStatusRequest()):
                yield piece


@asynccontextmanager
async def control_plane(data: Path, **settings: Any) -> AsyncIterator[Client]:
    chosen = ControlPlaneSettings(listen="127.0.0.1:0", data=data, **settings)
    async with running(chosen) as serving, rpc_client.channel(serving.address) as channel:
        yield Client(channel)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with control_plane(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def workers(*fakes: FakeWorker) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for fake in fakes:
            await stack.enter_async_context(fake.serving())
        yield


async def first(client: Client, wanted: Any) -> WatchStatusResponse:
    """The first piece of a fresh watch for which `wanted` holds."""
    async with asyncio.timeout(10):
        async for piece in client.watch():
            if wanted(piece):
                return piece
    raise AssertionError("the stream ended")


def placed(shards: PlaceRequest) -> dict[int, tuple[int, str, str]]:
    return {shard.shard: (shard.epoch, shard.worker_id, shard.instance_id) for shard in shards.shards}


# Sync


async def test_sync_stores_a_revision_that_can_be_read_back(client: Client) -> None:
    revision = await client.sync(fleet())
    assert (revision.generation, revision.term, revision.resource_count, revision.current) == (1, 1, 3, True)
    got = await client.revision()
    assert got.revision == revision
    assert list(got.config.resources) == fleet()
    assert (got.config.generation, got.config.content_hash) == (1, revision.content_hash)


async def test_sync_again_gets_the_stored_answer(client: Client) -> None:
    one = await client.sync(fleet())
    assert await client.sync(fleet(), revision_id=one.revision_id) == one
    two = await client.sync(fleet(prompt="Other."), parent=one.revision_id)
    late = await client.sync(fleet(), revision_id=one.revision_id)
    assert (late.generation, late.current) == (1, False)
    assert two.generation == 2


async def test_sync_of_other_content_under_the_same_id_is_already_exists(client: Client) -> None:
    one = await client.sync(fleet())
    with pytest.raises(AlreadyExists) as raised:
        await client.sync(fleet(prompt="Other."), revision_id=one.revision_id)
    assert raised.value.reason == "REVISION_ID_TAKEN"


async def test_sync_from_another_parent_is_aborted_with_the_current_revision(client: Client) -> None:
    one = await client.sync(fleet())
    for parent in ("", uuid7()):
        with pytest.raises(Aborted) as raised:
            await client.sync(fleet(), parent=parent)
        assert raised.value.metadata["current_revision_id"] == one.revision_id


async def test_sync_of_an_invalid_set_names_each_field_and_stores_nothing(client: Client) -> None:
    wrong = [agent("a", AgentSpec(model="defualt", max_steps=0)), model()]
    with pytest.raises(InvalidArgument) as raised:
        await client.sync(wrong)
    assert [(violation.field, violation.description) for violation in raised.value.violations] == [
        ("Agent/default/a spec.maxSteps", "must be 1 to 1,000, not 0"),
        ("Agent/default/a spec.model", 'there is no Model "defualt"; did you mean "default"?'),
    ]
    with pytest.raises(NotFound):
        await client.revision()


async def test_a_very_wrong_set_is_still_one_answer(client: Client) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await client.sync([agent(f"a{number}", AgentSpec(model="gone")) for number in range(5_000)])
    assert raised.value.violations[0].field == "Agent/default/a0 spec.model"
    assert raised.value.violations[-1].description.startswith("and ")


async def test_validate_only_says_what_would_be_and_stores_nothing(client: Client) -> None:
    would_be = await client.sync(fleet(), validate_only=True)
    assert (would_be.generation, would_be.resource_count, would_be.current) == (1, 3, False)
    assert list((await client.revisions()).revisions) == []
    with pytest.raises(InvalidArgument):
        await client.sync([agent()], validate_only=True)


async def test_of_syncs_at_once_from_one_parent_one_wins(client: Client) -> None:
    results = await asyncio.gather(
        *(client.sync(fleet(prompt=f"Prompt {number}.")) for number in range(8)), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, RevisionInfo)]
    assert len(won) == 1
    assert all(isinstance(result, Aborted) for result in results if not isinstance(result, RevisionInfo))


async def test_revisions_are_listed_in_pages_from_the_newest(client: Client) -> None:
    parent = ""
    for number in range(5):
        parent = (await client.sync(fleet(prompt=f"Prompt {number}."), parent=parent)).revision_id
    page = await client.revisions(page_size=2)
    assert [(about.generation, about.current) for about in page.revisions] == [(5, True), (4, False)]
    page = await client.revisions(page_size=2, page_token=page.next_page_token)
    assert [about.generation for about in page.revisions] == [3, 2]
    page = await client.revisions(page_size=2, page_token=page.next_page_token)
    assert ([about.generation for about in page.revisions], page.next_page_token) == ([1], "")
    for wrong in ({"page_size": 101}, {"page_token": "x"}, {"page_token": "-1"}, {"page_token": "9" * 30}):
        with pytest.raises(InvalidArgument):
            await client.revisions(**wrong)


async def test_an_unknown_revision_is_not_found(client: Client) -> None:
    await client.sync(fleet())
    with pytest.raises(NotFound):
        await client.revision("nonsense" * 100)


# Workers


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


# Placement


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


# WatchStatus


async def test_a_watch_gives_snapshot_synced_and_deltas(client: Client) -> None:
    revision = await client.sync(fleet())
    worker = FakeWorker()
    async with workers(worker):
        await client.register(worker)
        await worker.until(lambda one: one.runs(revision.revision_id))
        pieces: list[WatchStatusResponse] = []
        async with asyncio.timeout(10):
            async for piece in client.watch():
                pieces.append(piece)
                if piece.WhichOneof("kind") == "synced":
                    await worker.report(attempt_at(worker.asked[-1], ApplyPhase.APPLY_PHASE_ABANDONED))
                attempt = piece.worker.report.last_attempt
                if attempt.phase == ApplyPhase.APPLY_PHASE_ABANDONED:
                    break
    kinds = [piece.WhichOneof("kind") for piece in pieces]
    assert kinds[:2] == ["worker", "synced"]
    assert set(kinds[2:]) == {"worker"}
    assert (pieces[0].worker.worker_id, pieces[0].worker.address) == ("worker-0", worker.address)
    assert pieces[1].synced.current == revision


async def test_a_silent_worker_is_lost_and_one_without_shards_is_forgotten(tmp_path: Path) -> None:
    owner, spare = FakeWorker("owner"), FakeWorker("spare")
    async with control_plane(tmp_path, lease=0.6, renew_after=0.2, forget_after=0.5) as client:
        async with workers(owner, spare):
            await client.register(owner)
            await client.register(spare)
        lost = await first(client, lambda piece: piece.worker.report.health.state == HealthState.HEALTH_STATE_LOST)
        assert "no word for 0.6 s" in lost.worker.report.health.cause
        removed = await first(client, lambda piece: piece.WhichOneof("kind") == "removed_worker_id")
        assert removed.removed_worker_id == "spare"
        synced = [piece async for piece in _until_synced(client)]
        assert [piece.worker.worker_id for piece in synced[:-1]] == ["owner"], "who owns shards stays"


async def _until_synced(client: Client) -> AsyncIterator[WatchStatusResponse]:
    async for piece in client.watch():
        yield piece
        if piece.WhichOneof("kind") == "synced":
            return


async def test_a_watcher_that_does_not_read_is_cut_off_and_nobody_else_notices(tmp_path: Path) -> None:
    """It is sent more than its connection buffers: large statuses, until a write waits for too long."""
    worker = FakeWorker()
    async with control_plane(tmp_path, watcher_patience=0.5) as client, workers(worker), asyncio.timeout(30):
        await client.register(worker)
        slow = client.stub.WatchStatus(WatchStatusRequest())
        await slow.read()
        quick = client.watch()
        cut_off = REGISTRY.get_sample_value("troupe_controlplane_slow_watchers_total")
        number = 0
        while REGISTRY.get_sample_value("troupe_controlplane_slow_watchers_total") == cut_off:
            number += 1
            await worker.report(RevisionAttempt(error=ErrorDetail(reason=f"NUMBER_{number}", message="x" * 400_000)))
            async for piece in quick:
                if piece.worker.report.last_attempt.error.reason == f"NUMBER_{number}":
                    break
        with pytest.raises(ResourceExhausted) as raised, translated():
            while await slow.read() is not grpc.aio.EOF:
                pass
        assert raised.value.reason == "WATCHER_TOO_SLOW"


async def test_watchers_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_watchers=1) as client:
        watching = client.stub.WatchStatus(WatchStatusRequest())
        await watching.read()
        with pytest.raises(ResourceExhausted) as raised:
            await anext(client.watch())
        assert raised.value.reason == "TOO_MANY_WATCHERS"
        watching.cancel()


async def test_workers_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_workers=1) as client, workers(FakeWorker("one")):
        await client.stub.Register(RegisterRequest(worker_id="one", instance_id="i", address="127.0.0.1:9"))
        with pytest.raises(ResourceExhausted) as raised, translated():
            await client.stub.Register(RegisterRequest(worker_id="two", instance_id="i", address="127.0.0.1:9"))
        assert raised.value.reason == "TOO_MANY_WORKERS"
