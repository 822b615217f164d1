"""A control plane that leads: it hears the workers, and acts on the real rules. What it has not stored dies with it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fault.simulation_rollout.line import Line, stands

from troupe.chassis.errors import Aborted
from troupe.controlplane.outcomes import Observed
from troupe.controlplane.revisions import Summary, way_back
from troupe.controlplane.rollout import Offer, goes_back, step, wanted
from troupe.controlplane.stages import UNFINISHED
from troupe.controlplane.succession import settled
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import RevisionAttempt, StatusReport

LEASE = 10.0
APPLY_TIMEOUT = 60.0
LONGEST_RETRY = 60.0


@dataclass(slots=True)
class Known:
    """What the leader knows of one process, and what it has sent to it."""

    instance_id: str
    lease_ends: float
    report: StatusReport
    draining: bool = False
    answer: RevisionAttempt | None = None
    sent: str = ""
    sent_at: float = 0.0
    parked: str = ""
    not_before: float = 0.0
    failures: int = 0


Send = Callable[["Leader", str, ConfigSpec], None]


@dataclass(slots=True)
class Leader:
    """One leader. Each `yield` of a turn is a place where it may be replaced."""

    line: Line
    send: Send
    new_id: Callable[[], str]
    term: int
    known: dict[str, Known] = field(default_factory=dict)

    def restores(self, workers: dict[str, Known], now: float) -> None:
        """Everyone known has one lease to say a word, and has said none."""
        for worker_id, known in workers.items():
            report = StatusReport(worker_id=worker_id, instance_id=known.instance_id)
            self.known[worker_id] = Known(known.instance_id, now + LEASE, report, known.draining)

    def registers(self, worker_id: str, instance_id: str, draining: bool, now: float) -> None:
        known = self.known.get(worker_id)
        if known is None or known.instance_id != instance_id:
            # What the process before was told to try last is remembered, and is not this one's.
            attempt = known.report.last_attempt if known is not None and known.report.HasField("last_attempt") else None
            report = StatusReport(worker_id=worker_id, instance_id=instance_id, last_attempt=attempt)
            self.known[worker_id] = known = Known(instance_id, 0.0, report)
        known.lease_ends, known.draining = now + LEASE, draining

    def hears(self, report: StatusReport, now: float) -> None:
        known = self.known.get(report.worker_id)
        if known is not None and known.instance_id == report.instance_id:
            known.report, known.lease_ends = report, now + LEASE

    def answered(self, worker_id: str, instance_id: str, attempt: RevisionAttempt | None, now: float) -> None:
        """An Apply came to this; None where it got no answer."""
        known = self.known.get(worker_id)
        if known is None or known.instance_id != instance_id:
            return
        known.sent = ""
        if attempt is not None:
            known.answer = attempt
            if attempt.HasField("error") and not attempt.error.retryable:
                known.parked = attempt.revision_id
        known.failures += 1
        known.not_before = now + min(2.0 ** min(known.failures, 10), LONGEST_RETRY)

    def alive(self, now: float) -> list[Observed]:
        newest = self.line.head().revision_id
        return [self._observed(known, newest) for known in self.known.values() if known.lease_ends > now]

    def turn(self, now: float) -> Iterator[None]:
        """One look at everything."""
        if not (head := self.line.head()).revision_id:
            return
        try:
            yield from self._steps(head.revision_id, now)
        except Aborted:
            return

    def _steps(self, newest_id: str, now: float) -> Iterator[None]:
        newest = self._summary(newest_id)
        alive = self.alive(now)
        after = step(newest, alive, now)
        assert step(stands(newest, after), alive, now) == after, "the same again changed something"
        rollouts = {about.revision_id: about.rollout for about in self.line.revisions()} | {newest_id: after}
        changed = settled(rollouts, now)
        assert not settled(rollouts | changed, now), "the same again changed something"
        if after != newest.rollout:
            changed[newest_id] = after
        yield
        if changed:
            self.line.save(list(changed.items()), self.term, sum(not worker.draining for worker in alive))
            newest = stands(newest, after)
            yield
        stable = self.line.last_complete(newest.generation)
        if goes_back(newest, stable[1] if stable else None) and stable is not None:
            head = self.line.head()
            if (head.revision_id, head.term) == (newest_id, self.term):
                self.line.commit(way_back(self.new_id(), head, newest.rollout, stable[0], now), head)
            return
        if self.line.head().revision_id != newest_id:
            return
        offers = wanted(newest, stable[1] if stable else None, alive)
        for worker in alive:
            match offers[worker.worker_id]:
                case Offer.NEWEST:
                    self._offer(worker, newest_id, now)
                case Offer.STABLE if stable is not None:
                    self._offer(worker, stable[1].revision_id, now)
            yield

    def _offer(self, worker: Observed, revision_id: str, now: float) -> None:
        known = self.known[worker.worker_id]
        if known.sent and now - known.sent_at >= APPLY_TIMEOUT:
            self.answered(worker.worker_id, known.instance_id, None, now)
        tried = worker.tried(revision_id)
        has = worker.runs(revision_id) and (tried is None or not tried.HasField("error"))
        if known.sent or has or known.parked == revision_id or known.not_before > now or not worker.heard:
            return
        if tried is not None and tried.HasField("error") and not tried.error.retryable:
            return
        found = self.line.revision(revision_id)
        assert found is not None
        known.sent, known.sent_at = revision_id, now
        self.send(self, worker.worker_id, found[0])

    def _observed(self, known: Known, newest: str) -> Observed:
        worker = Observed.of(known.report, known.draining)
        answer = known.answer
        if answer is None or answer.revision_id != newest or worker.tried(newest) is not None:
            return worker
        return Observed(worker.worker_id, worker.instance_id, worker.running, answer, worker.heard, worker.draining)

    def _summary(self, revision_id: str) -> Summary:
        found = self.line.revision(revision_id)
        assert found is not None
        return found[1]


def is_unfinished(about: Summary) -> bool:
    """Whether workers are still to get it."""
    return about.rollout.stage in UNFINISHED
