"""The fleet's status: the newest word of each worker, the newest revision and its rollout, and who watches.

What it is told, it shows: who is LOST and what each worker is to run is decided elsewhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from troupe.chassis.clock import Clock
from troupe.chassis.errors import ResourceExhausted
from troupe.chassis.wire import timestamp
from troupe.controlplane import metrics
from troupe.controlplane.placement import Member
from troupe.controlplane.stores.port import KnownWorker
from troupe.controlplane.watching import Watch
from troupe.controlplane.weights import weight_of
from troupe.v1.control_plane_pb2 import RevisionInfo, Synced, WatchStatusResponse, WorkerStatus
from troupe.v1.status_pb2 import Health, HealthState, StatusReport

_SYNCED, _REVISION = "/synced", "/revision"
"""What no worker is called."""
RESTS = "it answered and did not work; others have its shards, and it gets none for a while"
_MENDED = frozenset({HealthState.HEALTH_STATE_UNSPECIFIED, HealthState.HEALTH_STATE_HEALTHY})


@dataclass(slots=True)
class _Entry:
    member: Member
    report: StatusReport
    reported_at: float | None = None
    lost: str = ""
    rests: bool = False
    wanted: str = ""
    weight: float = 0.0
    piece: WatchStatusResponse | None = None
    """As it is shown: made once for all who watch, and anew after a change."""


@dataclass(slots=True)
class FleetStatus:
    """One object for one process, on one event loop, whoever leads."""

    clock: Clock
    max_watchers: int
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _watches: set[Watch] = field(default_factory=set)
    _current: RevisionInfo | None = None

    def known(self, worker: KnownWorker) -> None:
        """What is known of a worker beside its reports. One that is new here, or that is another process now, or
        elsewhere, begins without a report."""
        member, before = worker.member, self._entries.get(worker.member.worker_id)
        weight = weight_of(worker.capacity, worker.weight)
        if before is not None and before.member == member:
            report = before.report if before.reported_at is not None else _unheard(worker)
            if (before.report, before.weight) != (report, weight):
                before.report, before.weight = report, weight
                self._tell(before)
            return
        self._entries[member.worker_id] = entry = _Entry(member, _unheard(worker), weight=weight)
        if before is not None:
            entry.wanted = before.wanted
        self._tell(entry)

    def hear(self, member: Member, report: StatusReport) -> None:
        """The worker's process reported. Passed over where another has taken its place."""
        entry = self._entries.get(member.worker_id)
        if entry is not None and entry.member == member:
            entry.report, entry.reported_at, entry.lost = report, self.clock.now(), ""
            self._tell(entry)

    def lost(self, worker_id: str, cause: str) -> None:
        """The worker's lease is over, because of `cause`."""
        self._set(worker_id, "lost", cause)

    def back(self, worker_id: str) -> None:
        """The worker has a lease again. What it said last counts again."""
        self._set(worker_id, "lost", "")

    def resting(self, instances: frozenset[str]) -> None:
        """These processes answered and did not work, and get no shards for a while."""
        for entry in self._entries.values():
            if entry.rests is not (rests := entry.member.instance_id in instances):
                entry.rests = rests
                self._tell(entry)

    def wants(self, worker_id: str, revision_id: str) -> None:
        """What the worker is to run now; empty for nothing."""
        self._set(worker_id, "wanted", revision_id)

    def _set(self, worker_id: str, name: str, value: str) -> None:
        entry = self._entries.get(worker_id)
        if entry is not None and getattr(entry, name) != value:
            setattr(entry, name, value)
            self._tell(entry)

    def current(self, revision: RevisionInfo | None) -> None:
        """The newest revision and its rollout, as they are now; None before the first."""
        if revision != self._current:
            self._current = revision
            if revision is not None:
                self._put(_REVISION, WatchStatusResponse(revision=revision))

    def forget(self, worker_id: str) -> None:
        """The worker is gone for good; watchers are told."""
        if self._entries.pop(worker_id, None) is not None:
            self._put(worker_id, WatchStatusResponse(removed_worker_id=worker_id))

    def unheard(self) -> None:
        """Nobody reports to this process any more, or not yet: what the workers said is dropped."""
        for entry in self._entries.values():
            said = entry.report
            attempt = said.last_attempt if said.HasField("last_attempt") else None
            worker = KnownWorker(entry.member, attempt, said.capacity)
            entry.report, entry.reported_at, entry.lost, entry.wanted = _unheard(worker), None, "", ""
            entry.rests = False
            self._tell(entry)

    def names(self) -> frozenset[str]:
        """Of every worker that is shown."""
        return frozenset(self._entries)

    def workers(self) -> list[WorkerStatus]:
        """Every worker as it is now, by name."""
        return [_piece(self._entries[name]).worker for name in sorted(self._entries)]

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """A queue that holds every worker's status and the marker `synced`, and gets every change from now on. Raises
        ResourceExhausted where as many watch as may."""
        if len(self._watches) >= self.max_watchers:
            raise ResourceExhausted(
                "TOO_MANY_WATCHERS",
                f"{self.max_watchers:,} watch already, which is the most that this control plane serves",
                retry_after=5.0,
            )
        watch = Watch()
        for name in sorted(self._entries):
            watch.put(name, _piece(self._entries[name]))
        watch.put(_SYNCED, WatchStatusResponse(synced=Synced(current=self._current)))
        self._watches.add(watch)
        metrics.WATCHERS.inc()
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            metrics.WATCHERS.dec()

    def _tell(self, entry: _Entry) -> None:
        entry.piece = None
        if self._watches:
            self._put(entry.member.worker_id, _piece(entry))

    def _put(self, about: str, piece: WatchStatusResponse) -> None:
        for watch in self._watches:
            watch.put(about, piece)


def _piece(entry: _Entry) -> WatchStatusResponse:
    if entry.piece is None:
        shown = WorkerStatus(
            worker_id=entry.member.worker_id,
            address=entry.member.address,
            report=entry.report,
            wanted_revision_id=entry.wanted,
            weight=entry.weight,
        )
        if entry.reported_at is not None:
            shown.reported_at.CopyFrom(timestamp(entry.reported_at))
        if entry.rests and shown.report.health.state in _MENDED:
            shown.report.health.CopyFrom(Health(state=HealthState.HEALTH_STATE_DEGRADED, cause=RESTS))
        if entry.lost:
            shown.report.health.CopyFrom(Health(state=HealthState.HEALTH_STATE_LOST, cause=entry.lost))
        entry.piece = WatchStatusResponse(worker=shown)
    return entry.piece


def _unheard(worker: KnownWorker) -> StatusReport:
    report = StatusReport(
        worker_id=worker.member.worker_id,
        instance_id=worker.member.instance_id,
        last_attempt=worker.last_attempt,
        capacity=worker.capacity,
    )
    if worker.draining:
        report.health.CopyFrom(
            Health(state=HealthState.HEALTH_STATE_DRAINING, cause="it is to hand over its shards and exit")
        )
    return report
