"""One suite for every RevisionStore, and what only the durable ones promise."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from support.fleets import fleet

from troupe.chassis.errors import Aborted, DataLoss, FailedPrecondition, InvalidArgument, Unimplemented
from troupe.chassis.ids import uuid7
from troupe.controlplane.placement import Assignment, Member, Placement
from troupe.controlplane.revisions import Head, summary
from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import KEPT_REVISIONS, KnownWorker, RevisionStore
from troupe.controlplane.stores.sqlite import SCHEMA
from troupe.resources.content import content_hash
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt

A, B = Member("a", "a-1", "host:1"), Member("b", "b-1", "host:2")

Open = Callable[[int], AbstractAsyncContextManager[RevisionStore]]
"""Opens the store of the test, again and again, asking for so many shards."""


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RevisionStore]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/controlplane.db"
    async with connected(url, 4) as opened:
        yield opened


@pytest.fixture
def reopen(tmp_path: Path) -> Open:
    return lambda shards: connected(f"sqlite:///{tmp_path}/controlplane.db", shards)


def following(head: Head, revision_id: str | None = None) -> ConfigSpec:
    return ConfigSpec(
        revision_id=revision_id or uuid7(),
        generation=head.generation + 1,
        term=head.term,
        parent_revision_id=head.revision_id,
        content_hash=content_hash(fleet()),
        resources=fleet(),
    )


async def grown(store: RevisionStore, revisions: int) -> list[ConfigSpec]:
    configs = []
    for number in range(revisions):
        head = await store.head()
        configs.append(following(head))
        await store.commit(configs[-1], 100.0 + number, head)
    return configs


async def test_a_new_store_is_empty(store: RevisionStore) -> None:
    assert await store.head() == Head(0, 1, "")
    assert await store.revisions(10) == []
    assert await store.revision(uuid7()) is None
    assert await store.placement() == Placement.empty(4)
    assert list(await store.workers()) == []
    assert store.shard_count == 4


async def test_a_committed_revision_is_the_head_and_comes_back_whole(store: RevisionStore) -> None:
    (config,) = await grown(store, 1)
    assert await store.head() == Head(1, 1, config.revision_id)
    assert await store.revision(config.revision_id) == (config, summary(config, 100.0))


async def test_a_commit_after_another_head_changes_nothing(store: RevisionStore) -> None:
    (config,) = await grown(store, 1)
    head = await store.head()
    for stale in (Head(0, 1), Head(2, 1), Head(1, 2)):
        with pytest.raises(Aborted):
            await store.commit(following(head), 1.0, stale)
    assert await store.head() == head
    assert [about.revision_id for about in await store.revisions(10)] == [config.revision_id]


async def test_of_many_commits_after_one_head_one_wins(store: RevisionStore) -> None:
    head = await store.head()
    contenders = [following(head) for _ in range(8)]
    results = await asyncio.gather(*(store.commit(config, 1.0, head) for config in contenders), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == [*["Aborted"] * 7, "NoneType"]
    (about,) = await store.revisions(10)
    assert about.revision_id == contenders[results.index(None)].revision_id


async def test_revisions_page_from_the_newest(store: RevisionStore) -> None:
    configs = await grown(store, 5)
    assert [about.generation for about in await store.revisions(2)] == [5, 4]
    assert await store.revisions(2, before=4) == [summary(configs[2], 102.0), summary(configs[1], 101.0)]
    assert [about.generation for about in await store.revisions(9, before=2)] == [1]
    assert await store.revisions(9, before=1) == []


async def test_the_newest_hundred_are_kept(store: RevisionStore) -> None:
    configs = await grown(store, KEPT_REVISIONS + 2)
    kept = await store.revisions(1_000)
    assert [about.generation for about in kept] == list(range(KEPT_REVISIONS + 2, 2, -1))
    assert await store.revision(configs[1].revision_id) is None
    assert await store.revision(configs[2].revision_id) is not None


async def test_the_placement_is_replaced_version_by_version(store: RevisionStore) -> None:
    first = Placement(1, (Assignment(1, A), Assignment(3, B), None, None))
    await store.save_placement(first, 1)
    assert await store.placement() == first
    second = Placement(2, (Assignment(1, A),) * 4)
    for wrong, term in ((first, 1), (Placement(3, first.shards), 1), (second, 2)):
        with pytest.raises(Aborted):
            await store.save_placement(wrong, term)
    assert await store.placement() == first
    await store.save_placement(second, 1)
    assert await store.placement() == second


async def test_workers_are_remembered_by_name(store: RevisionStore) -> None:
    attempt = RevisionAttempt(generation=3, phase=ApplyPhase.APPLY_PHASE_ROLLED_BACK)
    await store.remember_worker(KnownWorker(B))
    await store.remember_worker(KnownWorker(A))
    newer = KnownWorker(Member("b", "b-2", "host:9"), attempt)
    await store.remember_worker(newer)
    attempt.generation = 4
    assert [known.member for known in await store.workers()] == [A, newer.member]
    remembered = (await store.workers())[1].last_attempt
    assert remembered is not None
    assert remembered.generation == 3, "what is kept is what was given, not what became of it"
    await store.forget_worker("a")
    await store.forget_worker("nobody")
    assert [known.member for known in await store.workers()] == [newer.member]


async def test_what_is_stored_outlives_the_process(reopen: Open) -> None:
    placement = Placement(1, (Assignment(7, A), None, Assignment(1, B), None))
    attempt = RevisionAttempt(generation=1, phase=ApplyPhase.APPLY_PHASE_APPLIED)
    async with reopen(4) as store:
        (config,) = await grown(store, 1)
        await store.save_placement(placement, 1)
        await store.remember_worker(KnownWorker(A, attempt))
    async with reopen(4) as store:
        assert await store.head() == Head(1, 1, config.revision_id)
        assert await store.revision(config.revision_id) == (config, summary(config, 100.0))
        assert await store.placement() == placement
        assert list(await store.workers()) == [KnownWorker(A, attempt)]


async def test_the_number_of_shards_is_fixed_when_the_store_is_created(reopen: Open) -> None:
    async with reopen(4):
        pass
    async with reopen(128) as store:
        assert store.shard_count == 4


async def test_a_file_has_one_control_plane(reopen: Open) -> None:
    async with reopen(4):
        with pytest.raises(FailedPrecondition, match="in use by process"):
            async with reopen(4):
                pass


async def test_a_file_that_is_broken_newer_or_no_place_to_write(tmp_path: Path) -> None:
    @asynccontextmanager
    async def at(name: str) -> AsyncIterator[None]:
        async with connected(f"sqlite:///{tmp_path}/{name}", 4):
            yield

    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataLoss, match=r"broken\.db"):
        async with at("broken.db"):
            pass
    async with at("newer.db"):
        pass
    with sqlite3.connect(tmp_path / "newer.db") as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA.version + 1}")
    connection.close()
    with pytest.raises(FailedPrecondition, match="newer"):
        async with at("newer.db"):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="cannot write in"):
        async with at("file/controlplane.db"):
            pass


async def test_bytes_that_cannot_be_read_any_more_are_data_loss(reopen: Open, tmp_path: Path) -> None:
    async with reopen(4) as store:
        (config,) = await grown(store, 1)
    with sqlite3.connect(tmp_path / "controlplane.db") as connection:
        connection.execute("UPDATE revisions SET config = x'ff'")
    connection.close()
    async with reopen(4) as store:
        with pytest.raises(DataLoss, match=config.revision_id):
            await store.revision(config.revision_id)


@pytest.mark.parametrize("url", ["", "controlplane.db", "sqlite://", "sqlite:///", "memory://x", "postgres://host/db"])
async def test_what_is_no_store(url: str) -> None:
    with pytest.raises(InvalidArgument, match="must be sqlite:///PATH or memory://"):
        async with connected(url, 4):
            pass


async def test_redis_is_not_built_yet() -> None:
    with pytest.raises(Unimplemented):
        async with connected("redis://host", 4):
            pass
