"""Which revision one worker is due, and when: a function of what was offered to it and what it answered.

One Apply is outstanding at a time, always of the newest revision. What a worker refuses for good is parked until
another revision comes; only failures that may pass are tried again, later and later.
"""

from collections.abc import Callable
from dataclasses import dataclass

from troupe.controlplane.delays import backoff
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, RunningRevision, StatusReport

Placed = ConfigSpec | RevisionAttempt | RunningRevision
"""What has a place, (term, generation), in the order of revisions."""


@dataclass(frozen=True, slots=True)
class RetryTimes:
    """Seconds before a failed Apply is repeated, the first time and at most."""

    first: float = 1.0
    longest: float = 60.0


class Pushes:
    """The pushes to one process of one worker. Times are seconds of one monotonic clock."""

    def __init__(self, random: Callable[[], float], times: RetryTimes) -> None:
        self._random, self._times = random, times
        self._newest: ConfigSpec | None = None
        self._settled = False
        self._failures = 0
        self._not_before = 0.0
        self._heard: RevisionAttempt | None = None
        self.parked = False
        """Whether the worker refused the newest revision for good."""

    def offer(self, config: ConfigSpec) -> None:
        """`config` is the newest revision now. The same one again changes nothing."""
        if self._newest is not None and _place(self._newest) == _place(config):
            return
        self._newest = config
        self._settled = self.parked = False
        self._failures, self._not_before = 0, 0.0

    def due(self, now: float) -> tuple[ConfigSpec, float] | None:
        """The revision to push and in how many seconds; None while there is nothing to push."""
        if self._newest is None or self._settled:
            return None
        return self._newest, max(0.0, self._not_before - now)

    def answered(self, attempt: RevisionAttempt, now: float) -> None:
        """The worker answered an Apply."""
        self._heard = attempt
        self._judge(attempt, now)

    def failed(self, config: ConfigSpec, retryable: bool, now: float) -> None:
        """An Apply of `config` got no answer but an error."""
        if self._is_newest(config):
            self._fail(retryable, now)

    def reported(self, report: StatusReport, now: float) -> None:
        """The worker reported. It says whether it runs the newest revision already, and whether one that was taken
        failed later; what it said before counts once."""
        if self._is_newest(report.running) and not report.HasField("last_attempt"):
            self._settled = True
        attempt = report.last_attempt
        if report.HasField("last_attempt") and attempt != self._heard:
            self._heard = attempt
            self._judge(attempt, now)

    def connected(self) -> None:
        """The worker is reached again: what waits need not wait longer."""
        self._not_before = 0.0

    def _judge(self, attempt: RevisionAttempt, now: float) -> None:
        if not self._is_newest(attempt):
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

    def _is_newest(self, other: Placed) -> bool:
        return self._newest is not None and _place(self._newest) == _place(other)


def _place(what: Placed) -> tuple[int, int]:
    return what.term, what.generation
