"""Who writes, over a real Leader and the fakes, at the pace of a clock."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from support.fake_fleet import FakeFleet, settled
from support.fleets import fleet

from troupe.chassis.background import background
from troupe.chassis.errors import Unavailable
from troupe.chassis.ids import uuid7
from troupe.controlplane.leadership import Leader
from troupe.controlplane.seat import Seat
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.v1.control_plane_pb2 import SyncRequest
from troupe.v1.rollout_pb2 import Rollout, RolloutStage


@asynccontextmanager
async def seated(run: FakeFleet, address: str = "one:1", status: FleetStatus | None = None) -> AsyncIterator[Seat]:
    around = run.around if status is None else run.surroundings(status)
    seat = Seat(around)
    async with background() as group:
        group.create_task(seat.run(Leader(run.store, run.clock, uuid7(), address)))
        await settled()
        yield seat


def leads(seat: Seat) -> bool:
    try:
        seat.writer()
    except Unavailable:
        return False
    return True


async def test_one_leads_and_the_other_says_who() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with seated(run) as one, seated(run, "two:1", FleetStatus(run.clock, 10)) as two:
        await asyncio.wait_for(one.settled(1.0), 2.0)
        await asyncio.wait_for(two.settled(1.0), 2.0)
        assert leads(one)
        with pytest.raises(Unavailable) as raised:
            two.writer()
        assert (raised.value.reason, raised.value.metadata) == ("NOT_LEADER", {"leader_address": "one:1"})


async def test_when_the_leader_ends_the_other_leads_within_a_retry() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with AsyncExitStack() as leading:
        await leading.enter_async_context(seated(run))
        async with seated(run, "two:1", FleetStatus(run.clock, 10)) as two:
            await run.pass_time(30.0)
            assert not leads(two)
            await leading.aclose()
            await run.pass_time(2.0)
            assert two.writer().term == 2


async def test_a_leader_that_another_has_replaced_writes_no_more() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with seated(run) as one:
        reign = one.writer()
        await run.store.lead(await run.store.leadership(), "another", "there:1")
        await run.pass_time(3.0)
        assert not leads(one)
        assert one.not_leader().metadata == {"leader_address": "there:1"}
        assert reign.term == 1


async def test_a_restored_store_is_led_beyond_what_its_workers_know() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        processes = [await run.join(name) for name in ("a", "b", "c")]
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
    backup = copy.deepcopy(run.store)
    async with run.reigning():
        await run.sync(fleet(prompt="Lost with the store."))
        await run.until_stages("COMPLETE", "COMPLETE")
    run.restored(backup)
    async with seated(run) as seat:
        await run.until_stages("COMPLETE", "COMPLETE")
        assert seat.writer().term > 2
        newest, first = await run.store.revisions(2)
        assert newest.content_hash == first.content_hash
        assert newest.term == seat.writer().term
        assert {process.running.revision_id for process in processes if process.running} == {newest.revision_id}


async def test_who_stands_by_shows_what_the_store_holds_and_then_what_it_hears() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    status = FleetStatus(run.clock, 10)
    async with run.reigning():
        await run.join("a")
        async with seated(run, "two:1", status) as two:
            assert not leads(two)
            await run.sync(fleet())
            await run.until_stages("COMPLETE")
            await run.pass_time(2.5)
            (shown,) = status.workers()
            assert (shown.worker_id, shown.report.sequence, shown.report.last_attempt.generation) == ("a", 0, 1)
            with status.watching() as watch:
                await watch.get()
                current = (await watch.get()).synced.current
                assert current.rollout.stage == RolloutStage.ROLLOUT_STAGE_COMPLETE
                await run.store.resign(await run.store.leadership())
                await run.pass_time(3.0)
                assert leads(two)
                (shown,) = status.workers()
                assert shown.report.sequence == 1, "it hears the worker itself"


async def test_a_store_that_cannot_be_read_is_read_again() -> None:
    class Down(MemoryRevisionStore):
        down = False

        async def workers(self) -> object:  # type: ignore[override]
            if self.down:
                raise Unavailable("STORE_UNAVAILABLE", "not now")
            return await super().workers()

    store = Down(8)
    run = FakeFleet(store)
    status = FleetStatus(run.clock, 10)
    async with run.reigning():
        await run.join("a")
        async with seated(run, "two:1", status):
            await run.pass_time(2.5)
            store.down = True
            await run.pass_time(5.0)
            assert [one.worker_id for one in status.workers()] == ["a"]
            store.down = False
            await run.join("b")
            await run.pass_time(2.5)
            assert [one.worker_id for one in status.workers()] == ["a", "b"]


async def test_a_failing_store_at_the_beginning_of_a_reign_is_tried_again() -> None:
    class Late(MemoryRevisionStore):
        fails = 2

        async def workers(self) -> object:  # type: ignore[override]
            if self.fails:
                self.fails -= 1
                raise Unavailable("STORE_UNAVAILABLE", "not now")
            return await super().workers()

    run = FakeFleet(Late(8))
    async with seated(run) as one:
        await run.until(lambda: leads(one))
        request = SyncRequest(revision_id=uuid7(), resources=fleet())
        about = await one.writer().syncs.sync(request)
        assert about.rollout != Rollout()
