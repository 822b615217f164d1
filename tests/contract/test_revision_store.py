"""What every RevisionStore keeps: revisions, rollouts, placement, workers."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.revision_stores import (
    COMPLETE,
    DURABLE,
    FIRST,
    PENDING,
    SUPERSEDED,
    URLS,
    A,
    B,
    following,
    grown,
    led,
    opening,
)

from troupe.chassis.errors import Aborted, InvalidArgument
from troupe.chassis.ids import uuid7
from troupe.controlplane.placement import Assignment, Member, Placement
from troupe.controlplane.revisions import MAX_CONFIG_BYTES, Head, Summary, summary
from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import KEPT_REVISIONS, Deposed, KnownWorker, Leadership, RevisionStore
from troupe.v1.resource_pb2 import ConfigSpec, Resource
from troupe.v1.rollout_pb2 import Rollout
from troupe.v1.status_pb2 import ApplyPhase, Capacity, RevisionAttempt


@pytest.fixture(params=URLS)
async def unled(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RevisionStore]:
    async with opening(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
async def store(unled: RevisionStore) -> RevisionStore:
    """Whose writer leads in term 1."""
    await led(unled)
    return unled


def about(config: ConfigSpec, created_at: float, rollout: Rollout) -> Summary:
    return replace(summary(config, created_at), rollout=rollout)


async def test_a_new_store_is_empty(unled: RevisionStore) -> None:
    assert unled.shard_count == 4
    assert await unled.leadership() == Leadership(0)
    assert await unled.head() == Head(0, 0, "")
    assert await unled.revisions(10) == []
    assert await unled.revision(uuid7()) is None
    assert await unled.last_complete(1_000) is None
    assert await unled.placement() == Placement.empty(4)
    assert list(await unled.workers()) == []


# --- revisions


async def test_a_committed_revision_is_the_head_and_comes_back_whole(store: RevisionStore) -> None:
    (config,) = await grown(store, PENDING)

    assert await store.head() == Head(1, 1, config.revision_id)
    assert await store.revision(config.revision_id) == (config, about(config, 100.0, PENDING))


async def test_a_revision_of_the_largest_size_comes_back_byte_for_byte(store: RevisionStore) -> None:
    head = await store.head()
    config = following(head)
    filling = Resource(kind="Agent")
    filling.spec.value = random.Random(1).randbytes(MAX_CONFIG_BYTES - config.ByteSize() - 100)
    config.resources.append(filling)
    assert MAX_CONFIG_BYTES - 100 < config.ByteSize() <= MAX_CONFIG_BYTES

    await store.commit(config, 100.0, head, [PENDING])

    found = await store.revision(config.revision_id)
    assert found is not None
    assert found[0] == config


async def test_a_commit_after_another_head_changes_nothing(store: RevisionStore) -> None:
    (config,) = await grown(store, PENDING)
    head = await store.head()

    for stale in (Head(0, 1), Head(2, 1, config.revision_id), Head(1, 1, uuid7())):
        with pytest.raises(Aborted) as refused:
            await store.commit(following(head), 1.0, stale, [PENDING, SUPERSEDED])
        assert not isinstance(refused.value, Deposed)

    assert await store.head() == head
    assert await store.revisions(10) == [about(config, 100.0, PENDING)]


async def test_of_many_commits_after_one_head_one_wins(store: RevisionStore) -> None:
    head = await store.head()
    contenders = [following(head) for _ in range(8)]

    results = await asyncio.gather(
        *(store.commit(config, 1.0, head, [PENDING]) for config in contenders), return_exceptions=True
    )

    assert sorted(type(result).__name__ for result in results) == [*["Aborted"] * 7, "NoneType"]
    (stored,) = await store.revisions(10)
    assert stored.revision_id == contenders[results.index(None)].revision_id


async def test_revisions_page_from_the_newest(store: RevisionStore) -> None:
    configs = await grown(store, *[PENDING] * 5)

    assert [each.generation for each in await store.revisions(2)] == [5, 4]
    assert await store.revisions(2, before=4) == [
        about(configs[2], 102.0, PENDING),
        about(configs[1], 101.0, PENDING),
    ]
    assert [each.generation for each in await store.revisions(9, before=2)] == [1]
    assert await store.revisions(9, before=1) == []


async def test_the_newest_hundred_are_kept(store: RevisionStore) -> None:
    configs = await grown(store, *[SUPERSEDED] * (KEPT_REVISIONS + 2))

    kept = await store.revisions(1_000)
    assert [each.generation for each in kept] == list(range(KEPT_REVISIONS + 2, 2, -1))
    assert await store.revision(configs[1].revision_id) is None
    assert await store.revision(configs[2].revision_id) is not None


async def test_the_newest_complete_one_is_kept_however_old(store: RevisionStore) -> None:
    # Given two that became COMPLETE long ago, and none since
    configs = await grown(store, COMPLETE, COMPLETE, *[SUPERSEDED] * KEPT_REVISIONS)

    # Then the newer of the two is still there
    assert [each.generation for each in await store.revisions(1_000)][-2:] == [3, 2]
    assert await store.last_complete(1_000) == (configs[1], about(configs[1], 101.0, COMPLETE))
    assert await store.revision(configs[1].revision_id) is not None
    assert await store.revision(configs[0].revision_id) is None

    # When another becomes COMPLETE, then that one is kept in its place
    await store.save_rollouts([(configs[-1].revision_id, COMPLETE)], 1)
    await grown(store, PENDING)
    assert [each.generation for each in await store.revisions(1_000)] == list(range(103, 3, -1))


# --- rollouts


async def test_a_commit_ends_the_rollout_of_the_revision_before(store: RevisionStore) -> None:
    first, second = await grown(store, COMPLETE, PENDING)
    head = await store.head()
    third = following(head)

    await store.commit(third, 102.0, head, [PENDING, SUPERSEDED])

    assert await store.revisions(10) == [
        about(third, 102.0, PENDING),
        about(second, 101.0, SUPERSEDED),
        about(first, 100.0, COMPLETE),
    ]


async def test_rollouts_are_replaced_and_those_not_kept_are_passed_over(store: RevisionStore) -> None:
    first, second = await grown(store, PENDING, PENDING)

    await store.save_rollouts([(second.revision_id, COMPLETE), (uuid7(), COMPLETE), (first.revision_id, SUPERSEDED)], 1)
    await store.save_rollouts([], 1)

    assert [each.rollout for each in await store.revisions(10)] == [COMPLETE, SUPERSEDED]
    found = await store.revision(second.revision_id)
    assert found is not None
    assert found[1].rollout == COMPLETE


async def test_what_is_kept_of_a_rollout_is_what_was_given(store: RevisionStore) -> None:
    rollout = Rollout()
    rollout.CopyFrom(PENDING)
    (config,) = await grown(store, rollout)
    rollout.reason = "changed afterwards"
    found = await store.revision(config.revision_id)
    assert found is not None
    assert found[1].rollout == PENDING
    found[1].rollout.reason = "changed by a reader"
    assert (await store.revisions(1))[0].rollout == PENDING


async def test_the_last_complete_one_is_looked_for_below_a_generation(store: RevisionStore) -> None:
    first, second, _, fourth = await grown(store, COMPLETE, COMPLETE, SUPERSEDED, PENDING)

    assert await store.last_complete(4) == (second, about(second, 101.0, COMPLETE))
    assert await store.last_complete(2) == (first, about(first, 100.0, COMPLETE))
    assert await store.last_complete(1) is None

    # When that changes, another is found
    await store.save_rollouts([(second.revision_id, SUPERSEDED), (fourth.revision_id, COMPLETE)], 1)
    assert await store.last_complete(4) == (first, about(first, 100.0, COMPLETE))
    assert await store.last_complete(5) == (fourth, about(fourth, 103.0, COMPLETE))


# --- placement


async def test_the_placement_is_replaced_version_by_version(store: RevisionStore) -> None:
    await store.save_placement(FIRST, 1)
    assert await store.placement() == FIRST

    second = Placement(2, (Assignment(1, A),) * 4)
    for wrong in (FIRST, Placement(3, FIRST.shards)):
        with pytest.raises(Aborted) as refused:
            await store.save_placement(wrong, 1)
        assert not isinstance(refused.value, Deposed)
    assert await store.placement() == FIRST

    await store.save_placement(second, 1)
    assert await store.placement() == second


# --- workers


async def test_workers_are_remembered_by_name(store: RevisionStore) -> None:
    attempt = RevisionAttempt(generation=3, phase=ApplyPhase.APPLY_PHASE_ROLLED_BACK)
    capacity = Capacity(cpus=2.5)
    await store.remember_worker(KnownWorker(B, weight=1.0), 1)
    await store.remember_worker(KnownWorker(A), 1)
    newer = KnownWorker(Member("b", "b-2", "host:9"), attempt, capacity, 0.1, draining=True)
    await store.remember_worker(newer, 1)
    attempt.generation, capacity.cpus = 4, 5.0

    first, second = await store.workers()
    assert first == KnownWorker(A)
    assert (second.member, second.weight, second.draining) == (newer.member, 0.1, True)
    assert second.last_attempt is not None
    assert (second.last_attempt.generation, second.capacity.cpus) == (3, 2.5), "what is kept is what was given"

    await store.forget_worker("a", 1)
    await store.forget_worker("nobody", 1)
    assert [known.member for known in await store.workers()] == [newer.member]


# --- what outlives the process


@pytest.mark.parametrize("backend", DURABLE)
async def test_what_is_stored_outlives_the_process(backend: str, tmp_path: Path) -> None:
    attempt = RevisionAttempt(generation=1, phase=ApplyPhase.APPLY_PHASE_APPLIED)
    known = KnownWorker(
        A, attempt, Capacity(cpus=4.0, memory_bytes=1 << 33), 2.5, draining=True, replaced=("a-0", "a 1")
    )
    async with opening(backend, tmp_path) as store:
        await led(store)
        (config,) = await grown(store, COMPLETE)
        await store.save_placement(FIRST, 1)
        await store.remember_worker(known, 1)

    async with opening(backend, tmp_path) as store:
        assert await store.head() == Head(1, 1, config.revision_id)
        assert await store.revision(config.revision_id) == (config, about(config, 100.0, COMPLETE))
        assert await store.last_complete(2) == (config, about(config, 100.0, COMPLETE))
        assert await store.placement() == FIRST
        assert list(await store.workers()) == [known]
        assert (await led(store)).term == 2


@pytest.mark.parametrize("backend", DURABLE)
async def test_the_number_of_shards_is_fixed_when_the_store_is_created(backend: str, tmp_path: Path) -> None:
    async with opening(backend, tmp_path, shards=4):
        pass
    async with opening(backend, tmp_path, shards=128) as store:
        assert store.shard_count == 4
        assert await store.placement() == Placement.empty(4)


@pytest.mark.parametrize("backend", DURABLE)
async def test_all_that_have_it_open_see_what_the_leader_writes(backend: str, tmp_path: Path) -> None:
    async with opening(backend, tmp_path) as leader, opening(backend, tmp_path) as standby:
        held = await led(leader)
        assert await standby.leadership() == held
        (config,) = await grown(leader, PENDING)
        await leader.save_placement(FIRST, 1)
        assert await standby.revisions(10) == [about(config, 100.0, PENDING)]
        assert await standby.placement() == FIRST


@pytest.mark.parametrize("url", ["", "controlplane.db", "sqlite://", "sqlite:///", "memory://x", "postgres://host/db"])
async def test_what_is_no_store(url: str) -> None:
    with pytest.raises(InvalidArgument, match=r"must be redis://HOST, rediss://HOST, sqlite:///PATH or memory://"):
        async with connected(url, 4):
            pass
