"""Sync as it runs: one at a time, told once durable, whole in spite of whoever hangs up."""

import asyncio
from collections.abc import Sequence

import pytest
from support.fake_clock import FakeClock
from support.fleets import agent, fleet

from troupe.chassis.errors import Aborted, InvalidArgument, ResourceExhausted, Unavailable
from troupe.chassis.ids import uuid7
from troupe.controlplane.line import Line
from troupe.controlplane.revisions import Head
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import Deposed
from troupe.controlplane.syncs import MAX_WAITING, Syncs
from troupe.v1.control_plane_pb2 import RollbackRequest, SyncRequest
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout, RolloutStage


class SlowStore(MemoryRevisionStore):
    """Commits when it is let, and then does as it is told."""

    def __init__(self) -> None:
        super().__init__(4)
        self.reached, self.let = asyncio.Event(), asyncio.Event()
        self.answer_lost = False

    async def commit(self, config: ConfigSpec, created_at: float, after: Head, rollouts: Sequence[Rollout]) -> None:
        self.reached.set()
        await self.let.wait()
        await super().commit(config, created_at, after, rollouts)
        if self.answer_lost:
            self.answer_lost = False
            raise Unavailable("STORE_UNAVAILABLE", "the disk is gone")


class Led:
    """Syncs of a leader, and the generation that was the newest each time that it was told of one."""

    def __init__(self, store: MemoryRevisionStore, term: int) -> None:
        self.told: list[int] = []
        self.line = Line(store, term, lambda _: None)
        self.syncs = Syncs(store, self.line, FakeClock(), lambda: self.told.append(self.line.head.generation))


async def led(store: MemoryRevisionStore) -> Led:
    held = await store.lead(await store.leadership(), "one", "here:1")
    return Led(store, held.term)


def request(parent: str = "", prompt: str = "You are a clerk.") -> SyncRequest:
    return SyncRequest(revision_id=uuid7(), parent_revision_id=parent, resources=fleet(prompt=prompt))


async def test_a_caller_that_hangs_up_in_the_commit_leaves_a_revision_that_is_fanned_out() -> None:
    store = SlowStore()
    run = await led(store)
    caller = asyncio.create_task(run.syncs.sync(request()))
    await store.reached.wait()
    caller.cancel()
    await asyncio.sleep(0)
    assert run.told == []
    store.let.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert run.told == [1]
    assert (await store.head()).generation == 1


async def test_a_commit_whose_answer_was_lost_is_fanned_out_when_it_is_repeated() -> None:
    store = SlowStore()
    run, sent = await led(store), request()
    store.let.set()
    store.answer_lost = True
    with pytest.raises(Unavailable):
        await run.syncs.sync(sent)
    assert run.told == []
    about = await run.syncs.sync(sent)
    assert (about.generation, about.rollout.stage) == (1, RolloutStage.ROLLOUT_STAGE_PENDING)
    assert run.told == [1]


async def test_what_is_refused_or_only_validated_is_not_fanned_out() -> None:
    run = await led(MemoryRevisionStore(4))
    only = request()
    only.validate_only = True
    assert (await run.syncs.sync(only)).generation == 1
    with pytest.raises(InvalidArgument):
        await run.syncs.sync(SyncRequest(revision_id=uuid7(), resources=[agent()]))
    with pytest.raises(InvalidArgument) as raised:
        wrong = request()
        wrong.rollout.canary.percent = 101
        await run.syncs.sync(wrong)
    assert [violation.field for violation in raised.value.violations] == ["rollout.canary"]
    with pytest.raises(Aborted):
        await run.syncs.sync(request(parent="other"))
    assert run.told == []
    assert run.line.newest is None


async def test_syncs_that_wait_are_bounded() -> None:
    store = SlowStore()
    run = await led(store)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(_outcome(run.syncs)) for _ in range(MAX_WAITING + 3)]
        await store.reached.wait()
        store.let.set()
    outcomes = [task.result() for task in tasks]
    assert outcomes.count("ResourceExhausted") == 3
    assert outcomes.count("accepted") == 1
    assert outcomes.count("Aborted") == MAX_WAITING - 1


async def _outcome(syncs: Syncs) -> str:
    try:
        await syncs.sync(request())
    except (Aborted, ResourceExhausted) as error:
        return type(error).__name__
    return "accepted"


async def test_a_leader_that_was_replaced_commits_nothing() -> None:
    store = SlowStore()
    run = await led(store)
    caller = asyncio.create_task(run.syncs.sync(request()))
    await store.reached.wait()
    await led(store)
    store.let.set()
    with pytest.raises(Deposed):
        await caller
    assert (await store.head()).generation == 0


async def test_a_rollback_goes_to_what_was_complete_and_is_taken_once() -> None:
    store = MemoryRevisionStore(4)
    run = await led(store)
    first = await run.syncs.sync(request())
    done = Rollout()
    done.CopyFrom(first.rollout)
    done.stage = RolloutStage.ROLLOUT_STAGE_COMPLETE
    async with run.line.turn:
        await run.line.save(done, 1.0)
    second = await run.syncs.sync(request(first.revision_id, "Worse."))
    asked = RollbackRequest(revision_id=uuid7(), from_revision_id=second.revision_id)
    back = await run.syncs.roll_back(asked)
    assert (back.generation, back.content_hash) == (3, first.content_hash)
    assert await run.syncs.roll_back(asked) == back
    assert run.told == [1, 2, 3, 3]
    stages = [about.rollout.stage for about in await store.revisions(3)]
    assert stages[1:] == [RolloutStage.ROLLOUT_STAGE_ROLLING_BACK, RolloutStage.ROLLOUT_STAGE_COMPLETE]
    with pytest.raises(Aborted):
        await run.syncs.roll_back(RollbackRequest(revision_id=uuid7(), from_revision_id=second.revision_id))


async def test_a_revision_that_comes_in_a_rollback_ends_both_rollouts() -> None:
    store = MemoryRevisionStore(4)
    run = await led(store)
    first = await run.syncs.sync(request())
    done = Rollout()
    done.CopyFrom(first.rollout)
    done.stage = RolloutStage.ROLLOUT_STAGE_COMPLETE
    async with run.line.turn:
        await run.line.save(done, 1.0)
    second = await run.syncs.sync(request(first.revision_id, "Worse."))
    back = await run.syncs.roll_back(RollbackRequest(revision_id=uuid7(), from_revision_id=second.revision_id))
    await run.syncs.sync(request(back.revision_id, "A fix."))
    stages = [RolloutStage.Name(about.rollout.stage) for about in await store.revisions(4)]
    assert [stage.removeprefix("ROLLOUT_STAGE_") for stage in stages] == [
        "PENDING",
        "SUPERSEDED",
        "SUPERSEDED",
        "COMPLETE",
    ]
