"""The fleet's status: the newest word of each worker, who is lost, and who watches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from troupe.chassis.clock import Clock
from troupe.chassis.errors import ResourceExhausted
from troupe.chassis.wire import timestamp
from troupe.controlplane import metrics
from troupe.controlplane.placement import Member
from troupe.controlplane.stores.port import KnownWorker
from troupe.controlplane.watching import Watch
from troupe.v1.control_plane_pb2 import RevisionInfo, Synced, WatchStatusResponse, WorkerStatus
from troupe.v1.status_pb2 import Capacity, Health, HealthState, RevisionAttempt, StatusReport

_SYNCED = "/"
"""What no worker is called."""


@dataclass(slots=True)
class _Entry:
    member: Member
    report: StatusReport
    reported_at: float | None
    lease_ends: float
    lost: bool = False


class FleetStatus:
    """One object for one fleet, on one event loop. A worker is LOST when nothing was heard of it for `lease` seconds
    of the clock's monotonic time; every word of it, Register or report, makes it alive again."""

    def __init__(self, clock: Clock, lease: float, max_watchers: int) -> None:
        self._clock, self._lease, self._max_watchers = clock, lease, max_watchers
        self._entries: dict[str, _Entry] = {}
        self._watches: set[Watch] = set()
        self._all_had_a_lease = self._lease_from_now()

    def restore(self, worker: KnownWorker) -> None:
        """A worker that was known before this process began: it has one lease to say a word."""
        member = worker.member
        report = _unheard(member, worker.last_attempt)
        self._entries[member.worker_id] = _Entry(member, report, None, self._lease_from_now())
        self._count()

    def register(self, member: Member, capacity: Capacity) -> None:
        """The worker is there. Another process of it, or another address, begins without a report."""
        known = self._entries.get(member.worker_id)
        if known is not None and known.member == member:
            if self._renew(known):
                self._tell(known)
            return
        attempt = known.report.last_attempt if known is not None and known.report.HasField("last_attempt") else None
        report = _unheard(member, attempt)
        report.capacity.CopyFrom(capacity)
        self._entries[member.worker_id] = entry = _Entry(member, report, None, self._lease_from_now())
        self._count()
        self._tell(entry)

    def hear(self, member: Member, report: StatusReport) -> bool:
        """The worker's process reported. False, and passed over, for one whose place another has taken."""
        entry = self._entries.get(member.worker_id)
        if entry is None or entry.member != member:
            return False
        entry.report, entry.reported_at = report, self._clock.now()
        self._renew(entry)
        self._tell(entry)
        return True

    def expire(self) -> list[str]:
        """The workers whose lease ended since the last call: they are LOST from now on."""
        now = self._clock.monotonic()
        ended = [entry for entry in self._entries.values() if not entry.lost and entry.lease_ends <= now]
        for entry in ended:
            entry.lost = True
            self._tell(entry)
        if ended:
            self._count()
        return [entry.member.worker_id for entry in ended]

    def lost_for(self, seconds: float) -> list[str]:
        """The workers that have been LOST for `seconds` at least."""
        before = self._clock.monotonic() - seconds
        return [name for name, entry in self._entries.items() if entry.lost and entry.lease_ends <= before]

    def is_alive(self, worker_id: str) -> bool:
        """Whether the worker is known and not LOST."""
        entry = self._entries.get(worker_id)
        return entry is not None and not entry.lost

    def live_instances(self) -> frozenset[str] | None:
        """The processes whose leases have not ended. None in the first lease after the start: one that was known
        before, and that nothing was heard of yet, may be at work all the same."""
        if self._clock.monotonic() < self._all_had_a_lease:
            return None
        return frozenset(entry.member.instance_id for entry in self._entries.values() if not entry.lost)

    def forget(self, worker_id: str) -> None:
        """The worker is gone for good; watchers are told."""
        if self._entries.pop(worker_id, None) is not None:
            self._count()
            for watch in self._watches:
                watch.put(worker_id, WatchStatusResponse(removed_worker_id=worker_id))

    def workers(self) -> list[WorkerStatus]:
        """Every worker as it is now, by name."""
        return [self._shown(self._entries[name]) for name in sorted(self._entries)]

    @contextmanager
    def watching(self, current: RevisionInfo | None) -> Iterator[Watch]:
        """A queue that holds every worker's status and the marker `synced`, and gets every change from now on. Raises
        ResourceExhausted where as many watch as may."""
        if len(self._watches) >= self._max_watchers:
            raise ResourceExhausted(
                "TOO_MANY_WATCHERS",
                f"{self._max_watchers:,} watch already, which is the most that this control plane serves",
                retry_after=5.0,
            )
        watch = Watch()
        for status in self.workers():
            watch.put(status.worker_id, WatchStatusResponse(worker=status))
        watch.put(_SYNCED, WatchStatusResponse(synced=Synced(current=current)))
        self._watches.add(watch)
        metrics.WATCHERS.inc()
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            metrics.WATCHERS.dec()

    def _renew(self, entry: _Entry) -> bool:
        """Whether it was LOST before."""
        was_lost, entry.lost = entry.lost, False
        entry.lease_ends = self._lease_from_now()
        if was_lost:
            self._count()
        return was_lost

    def _tell(self, entry: _Entry) -> None:
        if self._watches:
            piece = WatchStatusResponse(worker=self._shown(entry))
            for watch in self._watches:
                watch.put(entry.member.worker_id, piece)

    def _shown(self, entry: _Entry) -> WorkerStatus:
        shown = WorkerStatus(worker_id=entry.member.worker_id, address=entry.member.address, report=entry.report)
        if entry.reported_at is not None:
            shown.reported_at.CopyFrom(timestamp(entry.reported_at))
        if entry.lost:
            cause = f"no word for {self._lease:g} s or longer; its shards wait for it"
            shown.report.health.CopyFrom(Health(state=HealthState.HEALTH_STATE_LOST, cause=cause))
        return shown

    def _lease_from_now(self) -> float:
        return self._clock.monotonic() + self._lease

    def _count(self) -> None:
        lost = sum(entry.lost for entry in self._entries.values())
        metrics.WORKERS.labels("lost").set(lost)
        metrics.WORKERS.labels("alive").set(len(self._entries) - lost)


def _unheard(member: Member, last_attempt: RevisionAttempt | None) -> StatusReport:
    return StatusReport(worker_id=member.worker_id, instance_id=member.instance_id, last_attempt=last_attempt)
