"""The workers of the simulation."""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, cast

from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.dataplane.config import Applier, RevisionFiles
from troupe.dataplane.placement import Placement
from troupe.dataplane.revision import Revision
from troupe.resources.content import content_hash
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import (
    Capacity,
    Health,
    HealthState,
    PlacementPosition,
    RevisionAttempt,
    ShardState,
    ShardStatus,
    StatusReport,
)

ACQUIRING, ACTIVE = ShardState.SHARD_STATE_ACQUIRING, ShardState.SHARD_STATE_ACTIVE
RELEASING, REFUSED = ShardState.SHARD_STATE_RELEASING, ShardState.SHARD_STATE_REFUSED


LATEST_WORD = 60.0
"""Seconds that a call may be on its way, all its tries together."""


class Fortune(Enum):
    """How one worker fares with one content."""

    GOOD = auto()
    BAD = auto()
    """It cannot be prepared."""
    FOR_NOW = auto()
    """It cannot be prepared now."""
    SICK = auto()
    """It runs and is not healthy."""
    KILLS = auto()
    """The process dies in the middle of it."""


class Fence:
    """The state store, as far as it knows who owns a shard."""

    def __init__(self) -> None:
        self.owners: dict[int, tuple[int, str]] = {}

    def claim(self, shard: int, epoch: int, instance: str) -> int | None:
        """Make it the owner; or the epoch that is in its way."""
        before = self.owners.get(shard)
        if before is not None and (before[0] > epoch or (before[0] == epoch and before[1] != instance)):
            return before[0]
        self.owners[shard] = (epoch, instance)
        return None

    def takes(self, shard: int, epoch: int, instance: str) -> bool:
        """Whether it takes a write of this owner."""
        return self.owners.get(shard) == (epoch, instance)


class Disk:
    """A worker's revision files, in place of RevisionFiles."""

    def __init__(self) -> None:
        self.good: ConfigSpec | None = None
        self.pending: ConfigSpec | None = None

    def read(self) -> tuple[ConfigSpec | None, ConfigSpec | None]:
        return self.good, self.pending

    def write_pending(self, config: ConfigSpec) -> None:
        self.pending = config

    def promote(self, config: ConfigSpec) -> None:
        self.good, self.pending = config, None

    def clear_pending(self) -> None:
        self.pending = None


@dataclass
class Held:
    epoch: int
    state: "ShardState.ValueType"
    store_epoch: int = 0


@dataclass
class Surroundings:
    """What all workers of a world share."""

    dice: random.Random
    fence: Fence
    clock: Any
    tasks: asyncio.TaskGroup
    fortune: Callable[[str, str], Fortune]
    """By worker id and content hash."""
    found: Callable[[str], None]
    """Told what is wrong."""


@dataclass
class Host:
    """One worker, whatever process of it runs."""

    worker_id: str
    capacity: Capacity
    disk: Disk = field(default_factory=Disk)
    processes: "list[Process]" = field(default_factory=list)
    serial: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def up(self) -> "list[Process]":
        return [process for process in self.processes if process.alive]


class Process:
    """One process of a worker."""

    def __init__(self, host: Host, around: Surroundings) -> None:
        self.host, self._around = host, around
        number = next(host.serial)
        self.instance_id = f"{host.worker_id}/{number}"
        self.address = f"{host.worker_id}:{number}"
        self.alive, self.draining, self.hangs, self.stopped = True, False, False, False
        self.died_at = 0.0
        self.slow = 0.0
        """Seconds that it takes to hand a shard over."""
        self.held: dict[int, Held] = {}
        self.placement = Placement(self.instance_id)
        self.position = (0, 0)
        self.told_draining = False
        self.changed = asyncio.Event()
        self.applier = Applier(
            cast(RevisionFiles, host.disk),
            self._prepare,
            self._swapped,
            self._healthy,
            around.clock,
            around.tasks,
            checks=1,
            window=2.0,
        )
        host.processes.append(self)

    # --- what it is asked

    async def running(self) -> None:
        """Return once the process is not standing still: nothing in it goes on before."""
        while self.stopped and self.alive:
            await asyncio.sleep(0.5)

    async def apply(self, config: ConfigSpec) -> RevisionAttempt:
        await self.running()
        while self.hangs and self.alive:
            await asyncio.sleep(1.0)
        attempt = await self.applier.apply(config)
        self._say()
        return attempt

    async def place(self, request: PlaceRequest) -> None:
        await self.running()
        self.placement.take(request)
        self.position = (request.term, request.version)
        self.told_draining |= self.instance_id in request.draining_instance_ids
        if self.told_draining:
            self.drain()
        mine = {owner.shard: owner.epoch for owner in self.placement.mine}
        for shard in [shard for shard in self.held if shard not in mine]:
            del self.held[shard]
        for shard, epoch in mine.items():
            held = self.held.get(shard)
            if shard in self.placement.revoked:
                if held is None:
                    continue
                if held.state == REFUSED:
                    del self.held[shard]
                elif held.state != RELEASING:
                    held.state = RELEASING
                    self._around.tasks.create_task(self._releases(shard, held))
            elif held is None or held.epoch != epoch:
                self.held[shard] = now = Held(epoch, ACQUIRING)
                self._around.tasks.create_task(self._acquires(shard, now))
        self._say()

    def drain(self) -> None:
        self.draining = True
        self._say()

    def report(self) -> StatusReport:
        state = HealthState.HEALTH_STATE_DRAINING if self.draining else HealthState.HEALTH_STATE_HEALTHY
        report = StatusReport(
            worker_id=self.host.worker_id,
            instance_id=self.instance_id,
            running=self.applier.running_revision(),
            last_attempt=self.applier.last_attempt,
            health=Health(state=state),
            capacity=self.host.capacity,
            shards=[
                ShardStatus(shard=shard, epoch=held.epoch, state=held.state, store_epoch=held.store_epoch)
                for shard, held in sorted(self.held.items())
            ],
        )
        if self.position != (0, 0):
            report.placement.CopyFrom(PlacementPosition(term=self.position[0], version=self.position[1]))
        return report

    # --- what it does by itself

    async def run(self) -> None:
        """Boot, write under its epochs, and leave when it drains and holds nothing."""
        await self.applier.boot()
        self._say()
        rested = 0
        while self.alive:
            await asyncio.sleep(1.0)
            if self.stopped:
                continue
            for shard, held in list(self.held.items()):
                if held.state == ACTIVE and not self._around.fence.takes(shard, held.epoch, self.instance_id):
                    self._refused(shard, held)
            rested = rested + 1 if self.draining and not self.held else 0
            if rested == 4:
                self.dies(in_order=True)

    def had_a_twin(self) -> bool:
        """Whether another process of its worker was there a moment ago, or a word of it may still be on its way."""
        now = self._around.clock.monotonic()
        others = [other for other in self.host.processes if other is not self]
        return any(other.alive or now - other.died_at < LATEST_WORD for other in others)

    def dies(self, in_order: bool = False) -> None:
        if not self.alive:
            return
        self.alive, self.died_at = False, self._around.clock.monotonic()
        self.held.clear()
        self._around.tasks.create_task(self.applier.close(in_order=in_order))
        self._say()

    def replaced(self) -> None:
        """Another process has taken its place: it lets go of everything."""
        self.dies(in_order=True)

    async def _acquires(self, shard: int, held: Held) -> None:
        await asyncio.sleep(self._around.dice.uniform(0.0, 0.3))
        if not self.alive or self.held.get(shard) is not held:
            return
        refused = self._around.fence.claim(shard, held.epoch, self.instance_id)
        if refused is not None:
            held.state, held.store_epoch = REFUSED, refused
        elif held.state == ACQUIRING:
            held.state = ACTIVE
        self._say()

    async def _releases(self, shard: int, held: Held) -> None:
        await asyncio.sleep(self._around.dice.uniform(0.3, 1.0) + self.slow)
        if self.alive and self.held.get(shard) is held:
            del self.held[shard]
            self._say()

    def _refused(self, shard: int, held: Held) -> None:
        held.state, held.store_epoch = REFUSED, self._around.fence.owners[shard][0]
        self._say()

    def _say(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def _prepare(self, config: ConfigSpec) -> Revision:
        match self._around.fortune(self.host.worker_id, config.content_hash):
            case Fortune.BAD:
                raise FailedPrecondition("BROKEN", "Tool default/t: cannot be imported")
            case Fortune.FOR_NOW if self._around.dice.random() < 0.6:
                raise Unavailable("FOR_NOW", "Tool default/t: not now")
            case Fortune.KILLS if self.host.disk.good is not None and self.host.disk.good != config:
                # The trial is on disk by the time that it dies.
                asyncio.get_running_loop().call_later(1.0, self.dies)
            case _:
                pass
        return Revision(config, {}, {})

    async def _swapped(self) -> None:
        """What runs is one revision, whole."""
        running = self.applier.running
        if running is not None and content_hash(running.config.resources) != running.config.content_hash:
            self._around.found(f"{self.instance_id} runs a mix")
        await asyncio.sleep(0)

    def _healthy(self, _since: float) -> TroupeError | None:
        running = self.applier.running
        if running is None:
            return None
        if self._around.fortune(self.host.worker_id, running.config.content_hash) is Fortune.SICK:
            return FailedPrecondition("SICK", "Agent default/a: not healthy")
        return None
