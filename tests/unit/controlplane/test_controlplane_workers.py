"""Members and links, over a store and workers that a test makes fail."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from support.fake_clock import FakeClock

from troupe.chassis.background import background
from troupe.chassis.errors import FailedPrecondition, ResourceExhausted, Unavailable
from troupe.controlplane.clients import WorkerClient
from troupe.controlplane.placement import Member, Placement
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import KnownWorker
from troupe.controlplane.workers import Workers, WorkersTimes
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, Capacity, RevisionAttempt, ShardState, ShardStatus, StatusReport

A1, A2, B1 = Member("a", "a-1", "a:1"), Member("a", "a-2", "a:2"), Member("b", "b-1", "b:1")


T = TypeVar("T")


class FakeNetwork:
    """Workers by address, as clients. One that is not `up` cannot be reached."""

    def __init__(self) -> None:
        self.up: dict[str, Member] = {}
        self.applied: list[tuple[str, int]] = []
        self.placed: list[tuple[str, int]] = []
        self.requests: dict[str, PlaceRequest] = {}
        self.refused: dict[str, list[ShardStatus]] = {}
        self.dials: list[str] = []
        self.refusing_placements = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[WorkerClient]:
        await self.note(self.dials, address)
        yield _FakeClient(self, address)

    async def note(self, where: list[T], what: T) -> None:
        async with self._changed:
            where.append(what)
            self._changed.notify_all()

    async def until(self, holds: Callable[["FakeNetwork"], bool]) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: holds(self))


class _FakeClient:
    def __init__(self, network: FakeNetwork, address: str) -> None:
        self._network, self._address = network, address
        self._attempt: RevisionAttempt | None = None
        self._news = asyncio.Event()

    async def reports(self) -> AsyncGenerator[StatusReport, None]:
        member = self._network.up.get(self._address)
        if member is None:
            raise Unavailable("UNAVAILABLE", "nobody there")
        while True:
            self._news.clear()
            yield StatusReport(
                worker_id=member.worker_id,
                instance_id=member.instance_id,
                last_attempt=self._attempt,
                shards=self._network.refused.get(self._address, ()),
            )
            await self._news.wait()

    async def apply(self, config: ConfigSpec, timeout: float) -> RevisionAttempt:
        phase = ApplyPhase.APPLY_PHASE_APPLIED
        self._attempt = RevisionAttempt(generation=config.generation, term=config.term, phase=phase)
        self._news.set()
        await self._network.note(self._network.applied, (self._address, config.generation))
        return self._attempt

    async def place(self, placement: PlaceRequest, timeout: float) -> None:
        self._network.requests[self._address] = placement
        await self._network.note(self._network.placed, (self._address, placement.version))
        if self._network.refusing_placements:
            raise FailedPrecondition("STALE", "the worker knows a newer placement")


class FlakyStore(MemoryRevisionStore):
    """Loses the answer to the next write of a placement."""

    lose_answer = False

    async def save_placement(self, placement: Placement, term: int) -> None:
        await super().save_placement(placement, term)
        if self.lose_answer:
            self.lose_answer = False
            raise Unavailable("STORE_UNAVAILABLE", "the disk is gone")


class Fleet:
    """What the tests look at."""

    def __init__(self, store: MemoryRevisionStore, *, wanted: int = 1, max_workers: int = 10) -> None:
        self.clock, self.network, self.store = FakeClock(), FakeNetwork(), store
        self.status = FleetStatus(self.clock, 10.0, 10)
        self.workers = Workers(
            store,
            self.status,
            self.network.dial,
            self.clock,
            lambda: 1.0,
            wanted=wanted,
            max_workers=max_workers,
            times=WorkersTimes(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Fleet"]:
        async with background() as group:
            await self.workers.restore(group)
            yield self

    async def join(self, member: Member) -> None:
        self.network.up[member.address] = member
        await self.workers.register(member, Capacity())


def config(generation: int) -> ConfigSpec:
    return ConfigSpec(revision_id=f"r{generation}", generation=generation, term=1)


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_fan_out_waits_until_revisions_stop_coming_but_not_for_ever() -> None:
    async with Fleet(MemoryRevisionStore(4)).running() as fleet:
        await fleet.join(A1)
        await fleet.network.until(lambda network: bool(network.placed))
        for generation in range(1, 200):
            fleet.workers.publish(config(generation))
            await settled()
            fleet.clock.advance(0.09)
            if fleet.network.applied:
                break
        assert fleet.network.applied == [("a:1", generation)], "after ten seconds of a stream of Syncs, the newest"
        assert 100 < generation < 120
        fleet.workers.publish(config(500))
        await settled()
        fleet.clock.advance(0.1)
        await fleet.network.until(lambda network: network.applied[1:] == [("a:1", 500)])


async def test_a_placement_whose_write_lost_its_answer_is_taken_up_and_brought() -> None:
    store = FlakyStore(4)
    async with Fleet(store).running() as fleet:
        store.lose_answer = True
        with pytest.raises(Unavailable):
            await fleet.join(A1)
        assert fleet.network.placed == []
        await fleet.join(A1)
        await fleet.network.until(lambda network: network.placed == [("a:1", 1)])
        await fleet.join(A2)
        await fleet.network.until(lambda network: ("a:2", 2) in network.placed)


async def test_nobody_hears_of_a_placement_that_is_not_stored() -> None:
    async with Fleet(MemoryRevisionStore(4)).running() as fleet:
        await fleet.join(A1)
        await fleet.network.until(lambda network: network.placed == [("a:1", 1)])
        assert (await fleet.store.placement()).version == 1


async def test_the_last_attempt_of_a_worker_is_remembered() -> None:
    async with Fleet(MemoryRevisionStore(4)).running() as fleet:
        await fleet.join(A1)
        fleet.workers.publish(config(7))
        await settled()
        fleet.clock.advance(0.1)
        await fleet.network.until(lambda network: bool(network.applied))
        await settled()
        (known,) = await fleet.store.workers()
        assert known.member == A1
        assert known.last_attempt is not None
        assert known.last_attempt.generation == 7
        await fleet.join(A2)
        (known,) = await fleet.store.workers()
        assert known.member == A2
        assert known.last_attempt is not None


async def test_a_worker_that_cannot_be_reached_is_dialled_less_and_less_up_to_every_five_seconds() -> None:
    async with Fleet(MemoryRevisionStore(4)).running() as fleet:
        await fleet.workers.register(A1, Capacity())
        waits: list[float] = []
        for dials in range(1, 10):
            await fleet.network.until(lambda network, dials=dials: len(network.dials) == dials)  # type: ignore[misc]
            await settled()
            begun = fleet.clock.monotonic()
            while len(fleet.network.dials) == dials:
                fleet.clock.advance(0.1)
                await settled()
            waits.append(round(fleet.clock.monotonic() - begun, 1))
        assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0], abs=0.11)


async def test_a_worker_that_knows_a_newer_placement_is_not_asked_again() -> None:
    async with Fleet(MemoryRevisionStore(4), wanted=1).running() as fleet:
        fleet.network.refusing_placements = True
        await fleet.join(A1)
        await fleet.network.until(lambda network: bool(network.placed))
        await settled()
        fleet.clock.advance(9)
        await settled()
        assert fleet.network.placed == [("a:1", 1)]


async def test_a_process_that_another_took_the_place_of_may_not_come_back() -> None:
    async with Fleet(MemoryRevisionStore(4)).running() as fleet:
        await fleet.join(A1)
        await fleet.join(A2)
        with pytest.raises(FailedPrecondition, match="give it another --worker-id"):
            await fleet.join(A1)
        assert (await fleet.store.placement()).version == 2


async def test_a_full_fleet_takes_known_workers_only() -> None:
    async with Fleet(MemoryRevisionStore(4), max_workers=1).running() as fleet:
        await fleet.join(A1)
        with pytest.raises(ResourceExhausted):
            await fleet.join(B1)
        await fleet.join(A2)


async def test_lost_workers_do_not_count_when_shards_are_first_placed() -> None:
    async with Fleet(MemoryRevisionStore(4), wanted=2).running() as fleet:
        await fleet.workers.register(A1, Capacity())
        fleet.clock.advance(10.0)
        await settled()
        assert not fleet.status.is_alive("a")
        await fleet.join(B1)
        assert (await fleet.store.placement()).version == 0
        await fleet.join(A1)
        assert (await fleet.store.placement()).owners() == {"a", "b"}


async def test_a_restored_worker_is_linked_and_forgotten_when_it_stays_away_without_shards() -> None:
    store = MemoryRevisionStore(4)
    await store.remember_worker(KnownWorker(B1))
    async with Fleet(store).running() as fleet:
        await fleet.network.until(lambda network: "b:1" in network.dials)
        fleet.clock.advance(10.0)
        await settled()
        fleet.clock.advance(600.0)
        await settled()
        assert list(await store.workers()) == []
        assert fleet.status.workers() == []
        dials = len(fleet.network.dials)
        fleet.clock.advance(100.0)
        await settled()
        assert len(fleet.network.dials) == dials, "its link has ended"


def live(fleet: Fleet, address: str) -> list[str]:
    return list(fleet.network.requests[address].live_instance_ids)


async def keep_alive(fleet: Fleet, *members: Member, seconds: float = 12.0) -> None:
    for _ in range(round(seconds * 2)):
        fleet.clock.advance(0.5)
        for member in members:
            await fleet.join(member)
        await settled()


async def test_who_is_alive_is_said_after_one_lease_and_again_when_it_changes() -> None:
    async with Fleet(MemoryRevisionStore(4)).running() as fleet:
        await fleet.join(A1)
        await fleet.join(B1)
        await settled()
        assert live(fleet, "a:1") == [], "one that was known before may not have said a word yet"
        await keep_alive(fleet, A1, B1)
        assert live(fleet, "a:1") == live(fleet, "b:1") == ["a-1", "b-1"]

        await keep_alive(fleet, A1)
        assert live(fleet, "a:1") == ["a-1"], "a lease ended"

        await keep_alive(fleet, A1, B1, seconds=1.0)
        assert live(fleet, "a:1") == ["a-1", "b-1"], "it came back"
        assert {version for _, version in fleet.network.placed} == {1}, "nothing moves by itself"


async def test_a_process_that_is_replaced_is_not_alive_for_the_one_that_takes_its_shards() -> None:
    async with Fleet(MemoryRevisionStore(4)).running() as fleet:
        await fleet.join(A1)
        await keep_alive(fleet, A1)
        await fleet.join(A2)
        await fleet.network.until(lambda network: ("a:2", 2) in network.placed)
        assert live(fleet, "a:2") == ["a-2"]


async def test_a_restored_worker_that_is_silent_is_gone_after_one_lease() -> None:
    store = MemoryRevisionStore(4)
    await store.remember_worker(KnownWorker(B1))
    async with Fleet(store).running() as fleet:
        await keep_alive(fleet, A1, seconds=9.0)
        assert live(fleet, "a:1") == []
        await keep_alive(fleet, A1, seconds=2.0)
        assert live(fleet, "a:1") == ["a-1"]


@pytest.mark.parametrize("store_epoch", [1, 7])
async def test_epochs_go_past_what_the_state_store_has(store_epoch: int) -> None:
    async with Fleet(MemoryRevisionStore(4)).running() as fleet:
        refused = ShardStatus(shard=2, epoch=1, state=ShardState.SHARD_STATE_REFUSED, store_epoch=store_epoch)
        fleet.network.refused["a:1"] = [refused]
        await fleet.join(A1)
        await fleet.network.until(lambda network: ("a:1", 2) in network.placed)
        epochs = {shard.shard: shard.epoch for shard in fleet.network.requests["a:1"].shards}
        assert epochs == {0: 1, 1: 1, 2: store_epoch + 1, 3: 1}
        assert (await fleet.store.placement()).version == 2, "stored before anybody hears of it"

        await fleet.join(A2)
        await fleet.network.until(lambda network: ("a:2", 3) in network.placed)
        await settled()
        assert (await fleet.store.placement()).version == 3, "a refusal under an epoch that is over says nothing"
