"""Which revision one worker is due, and when: a function of what was offered to it and what it answered.

One Apply is outstanding at a time, always of the revision that the worker is to run now. What a worker refuses for
good is parked until another revision is offered; only failures that may pass are tried again, later and later.
"""

from collections.abc import Callable
from dataclasses import dataclass

from troupe.controlplane.delays import backoff
from troupe.controlplane.packed import Packed
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, RunningRevision, StatusReport


@dataclass(frozen=True, slots=True)
class RetryTimes:
    """Seconds before a failed Apply is repeated, the first time and at most."""

    first: float = 1.0
    longest: float = 60.0


class Pushes:
    """The pushes to one process of one worker. Times are seconds of one monotonic clock."""

    def __init__(self, random: Callable[[], float], times: RetryTimes) -> None:
        self._random, self._times = random, times
        self._wanted: Packed | None = None
        self._settled = False
        self._failures = 0
        self._not_before = 0.0
        self._heard: RevisionAttempt | None = None
        self._report = StatusReport()
        self.parked = False
        """Whether the worker refused for good what it is to run."""

    def offer(self, offer: Packed | None, now: float) -> None:
        """What the worker is to run now; None leaves it with what it has. The same one again changes nothing. What the
        worker has said of it before counts."""
        if self._wanted is not None and offer is not None and self._wanted.place == offer.place:
            return
        self._wanted, self._heard = offer, None
        self._settled = self.parked = False
        self._failures, self._not_before = 0, 0.0
        self.reported(self._report, now)

    def due(self, now: float) -> tuple[Packed, float] | None:
        """The revision to push and in how many seconds; None while there is nothing to push."""
        if self._wanted is None or self._settled:
            return None
        return self._wanted, max(0.0, self._not_before - now)

    def answered(self, attempt: RevisionAttempt, now: float) -> None:
        """The worker answered an Apply."""
        self._heard = attempt
        self._judge(attempt, now)

    def failed(self, offer: Packed, retryable: bool, now: float) -> None:
        """An Apply of `offer` got no answer but an error."""
        if self._is_wanted(offer.place):
            self._fail(retryable, now)

    def reported(self, report: StatusReport, now: float) -> None:
        """The worker reported. It says whether it runs what it is to run already, and whether one that was taken
        failed later; what it said before counts once."""
        self._report, attempt = report, report.last_attempt
        if not (report.HasField("last_attempt") and self._is_wanted(_place(attempt))):
            if self._is_wanted(_place(report.running)):
                self._settled = True
        elif attempt != self._heard:
            self._heard = attempt
            self._judge(attempt, now)

    def connected(self) -> None:
        """The worker is reached again: what waits need not wait longer."""
        self._not_before = 0.0

    def _judge(self, attempt: RevisionAttempt, now: float) -> None:
        if not self._is_wanted(_place(attempt)):
            return
        match attempt.phase:
            case ApplyPhase.APPLY_PHASE_APPLIED:
                self._settled, self._failures = True, 0
            case ApplyPhase.APPLY_PHASE_PENDING:
                self._settled = True
            case _:
                self._fail(attempt.error.retryable, now)

    def _fail(self, retryable: bool, now: float) -> None:
        self._failures += 1
        self._settled = self.parked = not retryable
        self._not_before = now + backoff(self._failures, self._times.first, self._times.longest, self._random)

    def _is_wanted(self, place: tuple[int, int]) -> bool:
        return self._wanted is not None and self._wanted.place == place


def _place(what: RevisionAttempt | RunningRevision) -> tuple[int, int]:
    return what.term, what.generation
