"""The workers of the fleet: who is a member, what each owns, and the links that bring them what is newest."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Never

import structlog

from troupe.chassis.clock import Clock
from troupe.chassis.errors import FailedPrecondition, ResourceExhausted, TroupeError
from troupe.controlplane import metrics
from troupe.controlplane.background import whole
from troupe.controlplane.link import Dial, Link, LinkTimes
from troupe.controlplane.placement import Member, Placement, past, place
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.port import KnownWorker, RevisionStore
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import Capacity, RevisionAttempt, StatusReport

log = structlog.get_logger()

REMEMBERED_INSTANCES = 16
"""Earlier processes of one worker that are still told that another has taken their place."""


@dataclass(frozen=True, slots=True)
class WorkersTimes:
    """In seconds."""

    debounce: float = 0.1
    """Fan-out waits until no further revision has come for this long,"""
    debounce_longest: float = 10.0
    """but no longer than this under a stream of Syncs."""
    sweep: float = 0.5
    """Between two looks at the leases."""
    forget: float = 600.0
    """A worker that has been LOST for this long and owns no shard is gone for good."""
    link: LinkTimes = field(default_factory=LinkTimes)


@dataclass(slots=True)
class _Linked:
    member: Member
    link: Link
    task: "asyncio.Task[Never]"
    last_attempt: RevisionAttempt | None


class Workers:
    """One object for one fleet. Methods may be called while `run` runs, which alone starts and ends links."""

    def __init__(
        self,
        store: RevisionStore,
        status: FleetStatus,
        dial: Dial,
        clock: Clock,
        random: Callable[[], float],
        *,
        wanted: int,
        max_workers: int,
        times: WorkersTimes,
    ) -> None:
        self._store, self._status, self._dial = store, status, dial
        self._clock, self._random, self._times = clock, random, times
        self._wanted, self._max_workers = wanted, max_workers
        self._term = 0
        self._placement = Placement.empty(store.shard_count)
        self._linked: dict[str, _Linked] = {}
        self._registered: dict[str, Member] = {}
        self._replaced: dict[str, deque[str]] = {}
        self._live: frozenset[str] | None = None
        self._config: ConfigSpec | None = None
        self._published = asyncio.Event()
        self._changing = asyncio.Lock()
        self._group: asyncio.TaskGroup | None = None

    async def restore(self, group: asyncio.TaskGroup) -> None:
        """Take up what the store holds: link to every worker that was known, move nothing. Links and the upkeep are
        tasks of `group`, which must outlive every other call."""
        self._group = group
        head = await self._store.head()
        self._term = head.term
        self._placement = await self._store.placement()
        newest = await self._store.revision(head.revision_id) if head.revision_id else None
        self._config = newest[0] if newest else None
        metrics.GENERATION.set(head.generation)
        metrics.PLACEMENT_VERSION.set(self._placement.version)
        for worker in await self._store.workers():
            self._status.restore(worker)
            self._link(worker.member, worker.last_attempt)
        group.create_task(self._publishing())
        group.create_task(self._sweeping())

    @property
    def term(self) -> int:
        """The term that this control plane writes in."""
        return self._term

    def publish(self, config: ConfigSpec) -> None:
        """`config` is the newest revision now: bring it to every worker, soon."""
        self._config = config
        metrics.GENERATION.set(config.generation)
        self._published.set()

    async def register(self, member: Member, capacity: Capacity) -> None:
        """A worker's process is there, for the first time or again. A change of placement that follows is durable
        before anybody hears of it, and before this returns.

        Raises FailedPrecondition for a process whose worker has a newer one, ResourceExhausted where the fleet is
        full, and what the store raises; registering again then does what is left to do."""
        async with self._changing:
            await whole(self._register(member, capacity))

    async def _register(self, member: Member, capacity: Capacity) -> None:
        name = member.worker_id
        if member.instance_id in self._replaced.get(name, ()):
            raise FailedPrecondition(
                "REPLACED",
                f"another process has registered as {name} since; stop one of them, or give it another --worker-id",
            )
        linked = self._linked.get(name)
        if linked is None and len(self._linked) >= self._max_workers:
            raise ResourceExhausted(
                "TOO_MANY_WORKERS", f"the fleet has {self._max_workers:,} workers, the most it may have", retry_after=60
            )
        if linked is None or linked.member != member:
            attempt = linked.last_attempt if linked is not None else None
            await self._store.remember_worker(KnownWorker(member, attempt))
        present = {id_: known for id_, known in self._registered.items() if self._status.is_alive(id_)} | {name: member}
        placement = place(self._placement, list(present.values()), self._wanted)
        await self._save(placement)
        self._registered[name] = member
        self._status.register(member, capacity)
        self._adopt(placement)
        if linked is None or linked.member != member:
            self._replace(linked, member)

    def _replace(self, linked: _Linked | None, member: Member) -> None:
        attempt = None
        if linked is not None:
            linked.task.cancel()
            attempt = linked.last_attempt
            if linked.member.instance_id != member.instance_id:
                earlier = self._replaced.setdefault(member.worker_id, deque(maxlen=REMEMBERED_INSTANCES))
                earlier.append(linked.member.instance_id)
        log.info("worker joined", worker=member.worker_id, instance=member.instance_id, address=member.address)
        self._link(member, attempt)

    def _link(self, member: Member, last_attempt: RevisionAttempt | None) -> None:
        assert self._group is not None, "restore comes first"
        link = Link(member, self._dial, self._hear, self._clock, self._random, self._times.link)
        if self._config is not None:
            link.offer(self._config)
        if self._placement.version:
            link.place(self._request())
        task = self._group.create_task(link.run(), name=f"link {member.worker_id}")
        self._linked[member.worker_id] = _Linked(member, link, task, last_attempt)

    async def _save(self, placement: Placement) -> None:
        if placement is self._placement:
            return
        try:
            await self._store.save_placement(placement, self._term)
        except TroupeError:
            # It may be stored all the same: the next decision must start from what is.
            self._adopt(await self._store.placement())
            raise

    def _adopt(self, placement: Placement) -> None:
        if placement.version == self._placement.version:
            return
        self._placement = placement
        metrics.PLACEMENT_VERSION.set(placement.version)
        log.info("shards placed", version=placement.version, owners=sorted(placement.owners()))
        self._bring()

    def _bring(self) -> None:
        """Bring the placement, and who is alive, to every worker."""
        request = self._request()
        for linked in self._linked.values():
            linked.link.place(request)

    def _request(self) -> PlaceRequest:
        self._live = self._status.live_instances()
        return PlaceRequest(
            term=self._term,
            version=self._placement.version,
            shard_count=len(self._placement.shards),
            shards=[
                ShardAssignment(
                    shard=number,
                    epoch=shard.epoch,
                    worker_id=shard.owner.worker_id,
                    instance_id=shard.owner.instance_id,
                    address=shard.owner.address,
                )
                for number, shard in enumerate(self._placement.shards)
                if shard is not None
            ],
            live_instance_ids=sorted(self._live or ()),
        )

    async def _hear(self, member: Member, report: StatusReport) -> None:
        if not self._status.hear(member, report):
            return
        if refused := {shard.shard: shard.store_epoch for shard in report.shards if shard.store_epoch}:
            async with self._changing:
                await whole(self._go_past(member, refused))
        if not report.HasField("last_attempt"):
            return
        if report.last_attempt != self._linked[member.worker_id].last_attempt:
            async with self._changing:
                await self._remember(member, report.last_attempt)

    async def _go_past(self, member: Member, refused: Mapping[int, int]) -> None:
        placement = past(self._placement, refused, member)
        await self._save(placement)
        if placement is not self._placement:
            log.warning("state store refused a worker, going past its epochs", worker=member.worker_id, shards=refused)
            self._adopt(placement)

    async def _remember(self, member: Member, attempt: RevisionAttempt) -> None:
        linked = self._linked.get(member.worker_id)
        if linked is not None and linked.member == member:
            await self._store.remember_worker(KnownWorker(member, attempt))
            linked.last_attempt = attempt

    async def _publishing(self) -> Never:
        while True:
            await self._published.wait()
            begun = self._clock.monotonic()
            while self._published.is_set() and self._clock.monotonic() - begun < self._times.debounce_longest:
                self._published.clear()
                await self._clock.sleep(self._times.debounce)
            self._published.clear()
            if self._config is not None:
                for linked in self._linked.values():
                    linked.link.offer(self._config)

    async def _sweeping(self) -> Never:
        while True:
            await self._clock.sleep(self._times.sweep)
            for worker_id in self._status.expire():
                log.warning("worker lost", worker=worker_id)
            if self._placement.version and self._status.live_instances() != self._live:
                self._bring()
            for worker_id in self._status.lost_for(self._times.forget):
                try:
                    async with self._changing:
                        await self._forget(worker_id)
                except TroupeError as error:
                    log.warning("worker not forgotten yet", worker=worker_id, error=str(error))

    async def _forget(self, worker_id: str) -> None:
        if self._status.is_alive(worker_id) or worker_id in self._placement.owners():
            return
        await self._store.forget_worker(worker_id)
        self._linked.pop(worker_id).task.cancel()
        self._registered.pop(worker_id, None)
        self._replaced.pop(worker_id, None)
        self._status.forget(worker_id)
        log.info("worker forgotten", worker=worker_id)
