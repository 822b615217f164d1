"""What only the leader does, for one term: it takes workers in, judges their leases, moves shards and rolls out."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Never

import structlog

from troupe.chassis.background import background
from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.controlplane import metrics
from troupe.controlplane.infos import info
from troupe.controlplane.line import Line
from troupe.controlplane.link import Dial, LinkTimes
from troupe.controlplane.links import Links
from troupe.controlplane.members import Members
from troupe.controlplane.moving import Shards
from troupe.controlplane.packed import Packed
from troupe.controlplane.placement import Member
from troupe.controlplane.revisions import Summary
from troupe.controlplane.rolling import Rolling, RollingTimes
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.port import Deposed, KnownWorker, RevisionStore
from troupe.controlplane.syncs import Syncs
from troupe.controlplane.whole import whole
from troupe.v1.status_pb2 import Capacity, HealthState, RevisionAttempt, StatusReport

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ReignTimes:
    """In seconds."""

    lease: float = 10.0
    """A worker that says nothing for this long is LOST."""
    sweep: float = 0.5
    """Between two looks at the leases."""
    pace: float = 0.05
    """Between two changes of the placement: who joins or lets go meanwhile is dealt with in the next one."""
    release: float = 30.0
    """An owner that is alive may take this long to hand a shard over."""
    stuck: float = 30.0
    """A worker that answers loses its shards where something that could run is held up for longer than this."""
    forget: float = 600.0
    """A worker that has been LOST for this long and owns no shard is gone for good; one that drained is at once."""
    link: LinkTimes = field(default_factory=LinkTimes)
    rolling: RollingTimes = field(default_factory=RollingTimes)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a reign works with, whatever its term."""

    store: RevisionStore
    status: FleetStatus
    dial: Dial
    clock: Clock
    random: Callable[[], float]
    workers: int
    """So many must have registered before anything is placed for the first time."""
    max_workers: int
    times: ReignTimes


class Reign:
    """One object for one term. Methods may be called while `run` runs and `begun` is set. Whatever writes raises
    Deposed where another leads in the meantime."""

    def __init__(self, around: Surroundings, term: int, exceed: Callable[[int], None]) -> None:
        """`exceed` is called with a term, this one or a later one, from which a worker knows more than the store."""
        self._around, self.term, self._exceed = around, term, exceed
        self._store, self._status, self._clock = around.store, around.status, around.clock
        times = around.times
        self._members = Members(times.lease, around.max_workers, self._clock.monotonic())
        self._shards = Shards(
            self._store,
            self._members,
            self._clock,
            self._bring,
            term=term,
            wanted=around.workers,
            release_timeout=times.release,
            stalled_timeout=times.lease,
            stuck_after=times.stuck,
        )
        self._line = Line(self._store, term, self._show)
        self._rolling = Rolling(self._line, self._members, self._clock, self._offer, term=term, times=times.rolling)
        self.syncs = Syncs(self._store, self._line, self._clock, self._rolling.committed)
        self._links: Links | None = None
        self._joined: list[Member] = []
        self._news: dict[str, StatusReport] = {}
        self._told, self._stirred = asyncio.Event(), asyncio.Event()
        self._recording = asyncio.Lock()
        self.begun = asyncio.Event()
        """Set once what the store holds is taken up: nothing has moved by that."""

    async def run(self) -> None:
        """Reign until cancelled. Raises Deposed where another leads, and what the store raises at the beginning."""
        around = self._around
        async with background() as group:
            self._links = Links(group, around.dial, self, self._clock, around.random, around.times.link)
            await self._restore()
            for task in (self._recorded, self._reviewed, self._sweeping, self._rolling.run):
                group.create_task(task())
            self.begun.set()
            await asyncio.Event().wait()

    async def _restore(self) -> None:
        now, known = self._clock.monotonic(), await self._store.workers()
        await self._shards.restore()
        await self._line.sure(self._clock.now())
        self._status.unheard()
        for worker in known:
            self._members.renewed(worker, now)
            self._status.known(worker)
            self._linked().link(worker.member)
        for name in self._status.names() - {worker.member.worker_id for worker in known}:
            self._status.forget(name)
        self._count()
        await self._shards.review()

    # --- what callers ask for

    @property
    def current(self) -> str:
        """The newest revision's id; empty before the first."""
        return self._line.head.revision_id

    async def register(self, member: Member, capacity: Capacity, weight: float | None) -> None:
        """A worker's process is there, for the first time or again. What is known of it is durable when this returns;
        its shards follow soon.

        Raises FailedPrecondition for a process whose worker has a newer one, ResourceExhausted where the fleet is
        full, and what the store raises; registering again then does what is left to do."""
        async with self._recording:
            await whole(self._register(member, capacity, weight))

    async def _register(self, member: Member, capacity: Capacity, weight: float | None) -> None:
        known, worker = self._members.known(member.worker_id), self._members.admitted(member, capacity, weight)
        if worker != known:
            await self._store.remember_worker(worker, self.term)
        if self._members.renewed(worker, self._clock.monotonic()):
            self._back(member)
        self._status.known(worker)
        if worker != known:
            self._stirred.set()
        if known is None or known.member != member:
            log.info("worker joined", worker=member.worker_id, instance=member.instance_id, address=member.address)
            self._linked().cut(member.worker_id)
            self._joined.append(member)
            self._count()

    async def drain(self, worker_id: str) -> str:
        """The worker's process is to hand over what it has and exit; which process that is. Asking again changes
        nothing. Raises NotFound where no such worker is alive, and what the store raises."""
        async with self._recording:
            worker = self._members.drain(worker_id)
            await whole(self._record(worker))
        return worker.member.instance_id

    # --- what links hear

    def report(self, member: Member, report: StatusReport) -> None:
        """A worker's process reported."""
        worker = self._members.current(member)
        if worker is None:
            return
        if self._members.renewed(worker, self._clock.monotonic()):
            self._back(member)
        self._status.hear(member, report)
        if report.placement.term >= self.term and self._knows_more(report):
            self._exceed(report.placement.term)
        if (term := self._rolling.report(report)) is not None:
            self._exceed(term)
        if self._shards.reported(member, report):
            self._stirred.set()
        self._news[member.worker_id] = report
        self._told.set()

    def answer(self, member: Member, attempt: RevisionAttempt) -> None:
        """A worker's process answered an Apply."""
        if self._members.current(member) is not None:
            self._rolling.answer(member, attempt)

    def refused(self, member: Member) -> None:
        """Nobody listens any more where a worker's process did."""
        if self._members.ended(member, self._owns(member.worker_id), self._clock.monotonic()):
            self._lose("refused", "nobody listens at its address any more")

    def _knows_more(self, report: StatusReport) -> bool:
        known = (report.placement.term, report.placement.version)
        return known > (self.term, self._shards.placement.version)

    # --- what goes on by itself

    async def _recorded(self) -> Never:
        """Keep each worker's last attempt, and that it drains, in the store."""
        while True:
            await self._told.wait()
            self._told.clear()
            news, self._news = self._news, {}
            for worker_id, report in news.items():
                with self._later():
                    async with self._recording:
                        await whole(self._note(worker_id, report))

    async def _note(self, worker_id: str, report: StatusReport) -> None:
        worker = self._members.known(worker_id)
        if worker is None or worker.member.instance_id != report.instance_id:
            return
        draining = worker.draining or report.health.state == HealthState.HEALTH_STATE_DRAINING
        attempt = report.last_attempt if report.HasField("last_attempt") else worker.last_attempt
        await self._record(replace(worker, draining=draining, last_attempt=attempt))

    async def _record(self, worker: KnownWorker) -> None:
        before = self._members.known(worker.member.worker_id)
        if worker == before:
            return
        await self._store.remember_worker(worker, self.term)
        self._members.amended(worker)
        self._status.known(worker)
        if before is not None and worker.draining != before.draining:
            log.info("worker drains", worker=worker.member.worker_id, instance=worker.member.instance_id)
            self._count()
            self._rolling.stir()
            self._stirred.set()

    async def _reviewed(self) -> Never:
        """Whenever something has changed, see what follows for the placement; then talk to those that have joined, so
        that they hear of none but one in which they have their part."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            joined, self._joined = self._joined, []
            changed = False
            with self._later():
                changed = await self._shards.review()
            self._status.resting(self._shards.resting)
            for member in joined:
                if self._members.current(member) is not None:
                    self._linked().link(member)
                    self._rolling.stir()
            if changed:
                await self._clock.sleep(self._around.times.pace)

    async def _sweeping(self) -> Never:
        """Judge the leases. What a failing store kept undone is done again with each look."""
        while True:
            await self._clock.sleep(self._around.times.sweep)
            self._lose("silent", f"no word for {self._around.times.lease:g} s or longer")
            self._stirred.set()
            for worker_id in self._members.gone(self._around.times.forget, self._clock.monotonic()):
                with self._later():
                    async with self._recording:
                        await whole(self._forget(worker_id))
            self._linked().count()

    async def _forget(self, worker_id: str) -> None:
        if self._members.alive(worker_id) or self._owns(worker_id):
            return
        await self._store.forget_worker(worker_id, self.term)
        self._linked().cut(worker_id)
        self._members.forget(worker_id)
        self._status.forget(worker_id)
        self._count()
        log.info("worker forgotten", worker=worker_id)

    def _owns(self, worker_id: str) -> bool:
        return worker_id in self._shards.placement.owners()

    @contextmanager
    def _later(self) -> Iterator[None]:
        """What fails is left for the next time, unless it is because another leads."""
        try:
            yield
        except Deposed:
            raise
        except TroupeError as error:
            log.warning("store did not take it, tried again soon", error=str(error))

    # --- what follows

    def _lose(self, why: str, cause: str) -> None:
        for worker in self._members.expired(self._clock.monotonic()):
            name = worker.member.worker_id
            if worker.draining and not self._owns(name):
                log.info("worker has left", worker=name, instance=worker.member.instance_id)
            else:
                log.warning("worker lost", worker=name, instance=worker.member.instance_id, why=why)
                metrics.LEASES_ENDED.labels(why).inc()
                self._status.lost(name, cause)
            self._rolling.stir()
            self._stirred.set()
            self._count()

    def _back(self, member: Member) -> None:
        log.info("worker back", worker=member.worker_id, instance=member.instance_id)
        self._status.back(member.worker_id)
        self._rolling.stir()
        self._stirred.set()
        self._count()

    def _show(self, newest: Summary) -> None:
        self._status.current(info(newest, newest.revision_id))

    def _bring(self, placement: bytes) -> None:
        self._linked().place(placement)

    def _offer(self, worker_id: str, offer: Packed | None, wanted: str) -> None:
        self._linked().offer(worker_id, offer)
        self._status.wants(worker_id, wanted)

    def _linked(self) -> Links:
        assert self._links is not None, "run comes first"
        return self._links

    def _count(self) -> None:
        lost = sum(not self._members.alive(worker.member.worker_id) for worker in self._members)
        draining = len(self._members.draining())
        metrics.WORKERS.labels("lost").set(lost)
        metrics.WORKERS.labels("draining").set(draining)
        metrics.WORKERS.labels("alive").set(len(self._members) - lost - draining)
