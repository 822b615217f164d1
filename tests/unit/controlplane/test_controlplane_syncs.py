"""Sync as it runs: one at a time, told once durable, whole in spite of whoever hangs up."""

import asyncio

import pytest
from support.fake_clock import FakeClock
from support.fleets import agent, fleet

from troupe.chassis.errors import Aborted, InvalidArgument, ResourceExhausted, Unavailable
from troupe.chassis.ids import uuid7
from troupe.controlplane.revisions import Head
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.syncs import MAX_WAITING, Syncs
from troupe.v1.control_plane_pb2 import SyncRequest
from troupe.v1.resource_pb2 import ConfigSpec


class SlowStore(MemoryRevisionStore):
    """Commits when it is let, and then does as it is told."""

    def __init__(self) -> None:
        super().__init__(4)
        self.reached, self.let = asyncio.Event(), asyncio.Event()
        self.answer_lost = False

    async def commit(self, config: ConfigSpec, created_at: float, after: Head) -> None:
        self.reached.set()
        await self.let.wait()
        await super().commit(config, created_at, after)
        if self.answer_lost:
            raise Unavailable("STORE_UNAVAILABLE", "the disk is gone")


def request(parent: str = "") -> SyncRequest:
    return SyncRequest(revision_id=uuid7(), parent_revision_id=parent, resources=fleet())


async def test_a_caller_that_hangs_up_in_the_commit_leaves_a_revision_that_is_fanned_out() -> None:
    store, told = SlowStore(), list[ConfigSpec]()
    caller = asyncio.create_task(Syncs(store, FakeClock(), told.append).sync(request()))
    await store.reached.wait()
    caller.cancel()
    await asyncio.sleep(0)
    assert told == []
    store.let.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert [config.generation for config in told] == [1]
    assert (await store.head()).generation == 1


async def test_a_commit_whose_answer_was_lost_is_fanned_out_when_it_is_repeated() -> None:
    store, told = SlowStore(), list[ConfigSpec]()
    syncs, sent = Syncs(store, FakeClock(), told.append), request()
    store.let.set()
    store.answer_lost = True
    with pytest.raises(Unavailable):
        await syncs.sync(sent)
    assert told == []
    assert (await syncs.sync(sent)).generation == 1
    assert [config.revision_id for config in told] == [sent.revision_id]


async def test_what_is_refused_or_only_validated_is_not_fanned_out() -> None:
    store, told = MemoryRevisionStore(4), list[ConfigSpec]()
    syncs = Syncs(store, FakeClock(), told.append)
    only = request()
    only.validate_only = True
    await syncs.sync(only)
    with pytest.raises(InvalidArgument):
        await syncs.sync(SyncRequest(revision_id=uuid7(), resources=[agent()]))
    with pytest.raises(Aborted):
        await syncs.sync(request(parent="other"))
    assert told == []
    assert (await store.head()).generation == 0


async def test_syncs_that_wait_are_bounded() -> None:
    store = SlowStore()
    syncs = Syncs(store, FakeClock(), lambda _: None)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(_outcome(syncs)) for _ in range(MAX_WAITING + 3)]
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


async def test_a_commit_that_another_writer_came_before_names_the_newest() -> None:
    store = SlowStore()
    caller = asyncio.create_task(Syncs(store, FakeClock(), lambda _: None).sync(request()))
    await store.reached.wait()
    other = ConfigSpec(revision_id=uuid7(), generation=1, term=1)
    await MemoryRevisionStore.commit(store, other, 1.0, Head(0, 1))
    store.let.set()
    with pytest.raises(Aborted) as raised:
        await caller
    assert raised.value.metadata == {"current_revision_id": other.revision_id}
