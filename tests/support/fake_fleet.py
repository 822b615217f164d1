"""Worker processes without a network, and a leader over them, at the pace of a clock that the test moves."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from support.fake_clock import FakeClock
from support.fake_workers import Take, apply, attempt_at

from troupe.chassis.background import background
from troupe.chassis.errors import Unavailable
from troupe.chassis.ids import uuid7
from troupe.controlplane.clients import Refused, WorkerClient
from troupe.controlplane.packed import Packed
from troupe.controlplane.placement import Member, Placement
from troupe.controlplane.reign import Reign, ReignTimes, Surroundings
from troupe.controlplane.revisions import Summary
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.v1.control_plane_pb2 import RollbackRequest, SyncRequest
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.resource_pb2 import Resource
from troupe.v1.rollout_pb2 import Rollout, RolloutPolicy, RolloutStage
from troupe.v1.status_pb2 import (
    ApplyPhase,
    Capacity,
    Health,
    HealthState,
    PlacementPosition,
    RevisionAttempt,
    RunningRevision,
    ShardState,
    ShardStatus,
    StatusReport,
)

LEASE = 10.0
"""Seconds of silence after which a worker is lost."""


class Process:
    """One process of one worker. It obeys each placement at once, unless it does not `release`."""

    def __init__(self, member: Member, clock: FakeClock, take: Take = apply) -> None:
        self.member, self.clock, self.take = member, clock, take
        self.up = self.listens = self.releases = True
        self.health = HealthState.HEALTH_STATE_HEALTHY
        self.asked: list[int] = []
        """The generation of each Apply."""
        self.placements: list[PlaceRequest] = []
        self.refused: list[ShardStatus] = []
        self.held_up: dict[int, float] = {}
        """Since when something is held up, by shard."""
        self.running: RunningRevision | None = None
        self.attempt: RevisionAttempt | None = None
        self.news = asyncio.Event()

    @property
    def generation(self) -> int:
        """What it runs; 0 for nothing."""
        return self.running.generation if self.running is not None else 0

    def holds(self) -> dict[int, int]:
        """Its shards and their epochs."""
        if not self.placements:
            return {}
        return {
            shard.shard: shard.epoch
            for shard in self.placements[-1].shards
            if shard.instance_id == self.member.instance_id and not (shard.revoked and self.releases)
        }

    def say(self) -> None:
        """Report."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    def report(self) -> StatusReport:
        report = StatusReport(
            worker_id=self.member.worker_id,
            instance_id=self.member.instance_id,
            sequence=1,
            running=self.running,
            last_attempt=self.attempt,
            health=Health(state=self.health),
            shards=[
                *(
                    ShardStatus(
                        shard=shard,
                        epoch=epoch,
                        state=ShardState.SHARD_STATE_ACTIVE,
                        held_up_seconds=self.clock.monotonic() - self.held_up[shard] if shard in self.held_up else None,
                    )
                    for shard, epoch in self.holds().items()
                ),
                *self.refused,
            ],
        )
        if self.placements:
            newest = self.placements[-1]
            report.placement.CopyFrom(PlacementPosition(term=newest.term, version=newest.version))
        return report


class _Client:
    def __init__(self, process: Process) -> None:
        self._process = process

    async def reports(self) -> AsyncGenerator[StatusReport, None]:
        process = self._process
        while process.up:
            news = process.news
            yield process.report()
            await news.wait()
        raise Unavailable("UNAVAILABLE", "the connection is lost")

    async def apply(self, revision: Packed, timeout: float) -> RevisionAttempt:
        config, process = revision.config(), self._process
        process.asked.append(config.generation)
        if process.running is not None and revision.place < (process.running.term, process.running.generation):
            attempt = attempt_at(config, ApplyPhase.APPLY_PHASE_REJECTED_STALE)
        else:
            attempt = await process.take(config)
        process.attempt = attempt
        if attempt.phase == ApplyPhase.APPLY_PHASE_APPLIED:
            process.running = RunningRevision(
                revision_id=config.revision_id,
                generation=config.generation,
                term=config.term,
                content_hash=config.content_hash,
            )
        process.say()
        return attempt

    async def place(self, placement: bytes, timeout: float) -> None:
        self._process.placements.append(PlaceRequest.FromString(placement))
        self._process.say()


class FakeFleet:
    """Processes by address, one store, one clock; and one leader at a time, in `reigning`."""

    def __init__(self, store: MemoryRevisionStore, *, workers: int = 1, max_workers: int = 100) -> None:
        self.store, self.clock = store, FakeClock()
        self.status = FleetStatus(self.clock, 10)
        self.processes: dict[str, Process] = {}
        self.exceeded: list[int] = []
        self.dials = 0
        self.around = Surroundings(
            store=store,
            status=self.status,
            dial=self._dial,
            clock=self.clock,
            random=lambda: 1.0,
            workers=workers,
            max_workers=max_workers,
            times=ReignTimes(),
        )
        self._reign: Reign | None = None

    def restored(self, backup: MemoryRevisionStore) -> None:
        """The store is gone, and this older one takes its place. Nobody may reign meanwhile."""
        self.store = backup
        self.around = replace(self.around, store=backup)

    def surroundings(self, status: FleetStatus) -> Surroundings:
        """Those of another control plane over the same store and workers."""
        return replace(self.around, status=status)

    @asynccontextmanager
    async def reigning(self, beyond: int = 0) -> AsyncIterator["FakeFleet"]:
        """Lead in a new term. What the reign raises ends the block."""
        seen = await self.store.leadership()
        held = await self.store.lead(seen, uuid7(), "here:1", beyond)
        self._reign = Reign(self.around, held.term, self.exceeded.append)
        async with background() as group:
            group.create_task(self._reign.run())
            await self.until(self._reign.begun.is_set)
            yield self
        self._reign = None

    @property
    def reign(self) -> Reign:
        """The leader."""
        assert self._reign is not None
        return self._reign

    async def join(
        self, worker_id: str, take: Take = apply, instance_id: str = "", *, weight: float | None = None
    ) -> Process:
        """A new process registers."""
        instance_id = instance_id or f"{worker_id}-1"
        member = Member(worker_id, instance_id, f"{instance_id}:70")
        process = self.processes.setdefault(member.address, Process(member, self.clock, take))
        await self.reign.register(member, Capacity(), weight)
        await settled()
        return process

    async def sync(self, resources: Iterable[Resource], policy: RolloutPolicy | None = None) -> Summary:
        """What the resources have become, from the newest revision on."""
        request = SyncRequest(
            revision_id=uuid7(),
            parent_revision_id=self.reign.current,
            resources=resources,
            rollout=policy,
        )
        return await self.reign.syncs.sync(request)

    async def roll_back(self) -> Summary:
        """Leave the newest revision."""
        request = RollbackRequest(revision_id=uuid7(), from_revision_id=self.reign.current)
        return await self.reign.syncs.roll_back(request)

    async def rollouts(self) -> dict[int, Rollout]:
        """As they are stored, by generation."""
        return {about.generation: about.rollout for about in await self.store.revisions(100)}

    async def stages(self) -> list[str]:
        """Of all revisions, the oldest first."""
        found = sorted((await self.rollouts()).items())
        return [RolloutStage.Name(rollout.stage).removeprefix("ROLLOUT_STAGE_") for _, rollout in found]

    async def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """In steps, in each of which every process that is up reports."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            await settled()
            for process in self.processes.values():
                if process.up:
                    process.say()
            await settled()

    async def until(self, holds: Callable[[], object], seconds: float = 60.0) -> None:
        """Let time pass until `holds`. Raises AssertionError after `seconds` of it."""
        await settled()
        for _ in range(round(seconds * 2)):
            if holds():
                return
            await self.pass_time(0.5)
        raise AssertionError(f"not so after {seconds:g} s")

    async def until_stages(self, *stages: str, seconds: float = 60.0) -> None:
        """Let time pass until the stored rollouts are at these stages."""
        await settled()
        for _ in range(round(seconds * 2)):
            if await self.stages() == list(stages):
                return
            await self.pass_time(0.5)
        raise AssertionError(f"{await self.stages()} after {seconds:g} s")

    @asynccontextmanager
    async def _dial(self, address: str) -> AsyncIterator[WorkerClient]:
        self.dials += 1
        process = self.processes.get(address)
        if process is None or not process.up:
            if process is not None and not process.listens:
                raise Refused("UNAVAILABLE", "nobody listens")
            raise Unavailable("UNAVAILABLE", "nobody there")
        yield _Client(process)

    def kill(self, process: Process, *, listens: bool = False) -> None:
        """The process is gone; its host says so, or with `listens` nobody can tell."""
        process.up, process.listens = False, listens
        process.say()


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(60):
        await asyncio.sleep(0)


def owners(placement: Placement) -> dict[str, int]:
    """Shards by the instance that owns them."""
    counted: dict[str, int] = {}
    for shard in placement.shards:
        if shard is not None:
            counted[shard.owner.instance_id] = counted.get(shard.owner.instance_id, 0) + 1
    return counted
