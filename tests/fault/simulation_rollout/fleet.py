"""The workers of the simulation: what a DataPlaneService does with revisions, without the doing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random

from google.rpc import code_pb2

from troupe.dataplane.config import Verdict, judge
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, RunningRevision, StatusReport
from troupe.v1.turn_pb2 import ErrorDetail


class Fortune(Enum):
    """How one try of one worker at one content goes."""

    GOOD = auto()
    REJECTED = auto()
    UNHEALTHY = auto()
    """Taken, and rolled back for good at the end of its trial."""
    LATER = auto()
    """Rolled back, and another try may succeed."""
    DEADLY = auto()
    """The process dies with it on trial."""
    HANGS = auto()
    """No answer, ever."""


Fortunes = Callable[[str, str], Fortune]
"""Of a worker's next try at a content."""


@dataclass(slots=True)
class Worker:
    """One worker, its disk and its newest process."""

    worker_id: str
    number: int = 0
    up: bool = True
    reachable: bool = True
    mute: bool = False
    """It registers, and nobody can reach it."""
    draining: bool = False
    good: ConfigSpec | None = None
    pending: ConfigSpec | None = None
    running: ConfigSpec | None = None
    attempt: RevisionAttempt | None = None
    trial: Fortune | None = None
    hangs: bool = False
    sequence: int = 0
    had: set[str] = field(default_factory=set)
    """Every revision that was APPLIED here."""
    deaths: Counter[str] = field(default_factory=Counter)
    """With a revision on trial."""

    @property
    def instance_id(self) -> str:
        return f"{self.worker_id}.{self.number}"

    def dies(self) -> None:
        if self.up and self.pending is not None:
            self.deaths[self.pending.revision_id] += 1
        self.up = False

    def boots(self, wiped: bool = False) -> None:
        self.number += 1
        self.up, self.trial, self.hangs, self.draining, self.sequence = True, None, False, False, 0
        if wiped:
            self.good = self.pending = None
        self.running = self.good
        self.attempt = _attempt(self.good, ApplyPhase.APPLY_PHASE_APPLIED) if self.good is not None else None
        if self.pending is not None:
            self.attempt = _attempt(self.pending, ApplyPhase.APPLY_PHASE_ABANDONED, "died with it on trial", True)
            self.pending = None

    def applies(self, config: ConfigSpec, fortunes: Fortunes) -> RevisionAttempt | None:
        """The answer; None while there is none."""
        if self.hangs:
            return None
        verdict = judge(self.attempt, config)
        if verdict is Verdict.STALE:
            return _attempt(config, ApplyPhase.APPLY_PHASE_REJECTED_STALE, "has seen a newer one")
        if verdict is Verdict.CLASH:
            return _attempt(config, ApplyPhase.APPLY_PHASE_FAILED, "another revision of that place")
        if verdict is Verdict.SAME and self.attempt is not None and not self.attempt.error.retryable:
            return self.attempt
        fortune = fortunes(self.worker_id, config.content_hash)
        match fortune:
            case Fortune.HANGS:
                self.hangs = True
                return None
            case Fortune.REJECTED:
                self.attempt = _attempt(config, ApplyPhase.APPLY_PHASE_ROLLED_BACK, "no such module")
            case _:
                self.pending = self.running = config
                self.trial = fortune
                self.attempt = _attempt(config, ApplyPhase.APPLY_PHASE_PENDING)
        return self.attempt

    def concludes(self) -> None:
        """The trial comes to its end."""
        config, fortune = self.pending, self.trial
        if config is None or fortune is None:
            return
        self.trial = None
        if fortune is Fortune.DEADLY:
            self.dies()
            return
        self.pending = None
        if fortune is Fortune.GOOD:
            self.good = config
            self.had.add(config.revision_id)
            self.attempt = _attempt(config, ApplyPhase.APPLY_PHASE_APPLIED)
        else:
            self.running = self.good
            retryable = fortune is Fortune.LATER
            self.attempt = _attempt(config, ApplyPhase.APPLY_PHASE_ROLLED_BACK, "was not healthy", retryable)

    def report(self) -> StatusReport:
        self.sequence += 1
        running = self.running
        return StatusReport(
            worker_id=self.worker_id,
            instance_id=self.instance_id,
            sequence=self.sequence,
            running=RunningRevision(
                revision_id=running.revision_id,
                generation=running.generation,
                term=running.term,
                content_hash=running.content_hash,
            )
            if running is not None
            else None,
            last_attempt=self.attempt,
        )


class Luck:
    """Fortunes drawn from a seed: each content has its own temper."""

    TEMPERS = (
        (Fortune.GOOD,),
        (Fortune.GOOD,) * 9 + (Fortune.REJECTED,),
        (Fortune.GOOD,) * 4 + (Fortune.LATER,),
        (Fortune.GOOD,) * 4 + (Fortune.REJECTED, Fortune.UNHEALTHY, Fortune.HANGS, Fortune.DEADLY, Fortune.LATER),
        (Fortune.REJECTED,),
        (Fortune.DEADLY,),
        (Fortune.LATER,),
        (Fortune.HANGS,),
    )

    def __init__(self, random: Random) -> None:
        self._random = random
        self._tempers: dict[str, tuple[Fortune, ...]] = {}

    def __call__(self, worker_id: str, content_hash: str) -> Fortune:
        if content_hash not in self._tempers:
            weights = (8, 3, 3, 3, 2, 2, 1, 1)
            self._tempers[content_hash] = self._random.choices(self.TEMPERS, weights)[0]
        return self._random.choice(self._tempers[content_hash])


def _attempt(
    config: ConfigSpec, phase: ApplyPhase.ValueType, problem: str = "", retryable: bool = False
) -> RevisionAttempt:
    error = ErrorDetail(code=code_pb2.FAILED_PRECONDITION, reason="BAD", message=problem, retryable=retryable)
    return RevisionAttempt(
        revision_id=config.revision_id,
        generation=config.generation,
        term=config.term,
        content_hash=config.content_hash,
        phase=phase,
        error=error if problem else None,
    )
