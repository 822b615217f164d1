"""How the newest revision reaches the workers: whose turn it is, how it stands, and whether the way back is due.

All of it follows from the persisted Rollout and from what the workers that are alive say now; the same again changes
nothing. So a new leader goes on from both, wherever the one before stopped, under one condition: what `step` returns is
persisted before anything is offered by it.

A worker that is lost is neither a success nor a failure and holds nothing up: its place among those that may be in the
middle of taking the revision goes to another, and so does its part as a canary. But a revision that takes its workers'
machines with it looks just like that, and would go on from one to the next. So no more of those in the middle leave
their places than may fail; the others keep them until they are back, and have failed when the progress deadline comes
first. A worker that drains leaves the rollout by its own will and is not counted among them.

A worker that registers and cannot be reached may get a part where no other is there. Nothing is sent to a process that
was not heard; so until it is, its part goes to one that is heard and waits.
"""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from troupe.chassis.wire import seconds, timestamp
from troupe.controlplane import outcomes, stages
from troupe.controlplane.outcomes import Observed, is_barred, is_done, is_under_way
from troupe.controlplane.policy import count
from troupe.controlplane.revisions import Summary
from troupe.controlplane.stages import HALTED, UNFINISHED, Event
from troupe.v1.rollout_pb2 import FailurePolicy, Rollout, WorkerOutcome
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, RunningRevision

NAMED: Final = 3
"""Workers that a reason names; the outcomes tell of all."""
LATE: Final = 1_000
"""Workers that failed and are gone by now, of which a COMPLETE rollout still tells, the latest of them."""
MESSAGE_SHOWN: Final = 300
"""Characters of a worker's message that a reason repeats."""


class Offer(Enum):
    """What a worker is to run."""

    NEWEST = auto()
    STABLE = auto()
    """The newest revision before that is COMPLETE: the newest is not for it yet, and what it runs is older, or
    nothing."""
    NOTHING = auto()
    """It keeps what it has. What was offered before and has not been sent yet is not to be sent."""


def step(newest: Summary, workers: Iterable[Observed], now: float) -> Rollout:
    """The rollout of the newest revision after `workers` were seen like this at `now`, in seconds since the epoch.

    `workers` are all that are alive; one whose lease may still run after a change of leader is alive.
    Persist the result where it differs, before any offer that follows from it. At an end no outcome changes the stage
    any more: where it is HALTED those are heard that were in the middle of it, and where it is COMPLETE those that get
    it later and fail are told of, and barred from it as others are."""
    course = _Course(newest, workers, now)
    if newest.rollout.stage in UNFINISHED:
        course.go_on()
    elif newest.rollout.stage == HALTED:
        course.hear_the_rest()
    elif newest.rollout.stage == stages.COMPLETE:
        course.hear_the_late()
    return course.rollout


def wanted(newest: Summary, stable: Summary | None, workers: Iterable[Observed]) -> dict[str, Offer]:
    """What each of these workers is to run now, by worker id, as `newest.rollout`, which is persisted, says. `stable`
    is the newest COMPLETE revision before the newest."""
    rows = {outcome.worker_id: outcome for outcome in newest.rollout.workers}
    return {worker.worker_id: _wanted(newest, stable, worker, rows.get(worker.worker_id)) for worker in workers}


def goes_back(newest: Summary, stable: Summary | None) -> bool:
    """Whether the way back is to be committed now: too many failed, the policy wants it, there is something to go back
    to, and the revision is not a way back itself."""
    rollout = newest.rollout
    return (
        rollout.stage == HALTED
        and rollout.policy.on_failure != FailurePolicy.FAILURE_POLICY_HALT
        and not rollout.rollback_of_revision_id
        and stable is not None
    )


class _Course:
    """One step, on a copy of the rollout."""

    def __init__(self, newest: Summary, workers: Iterable[Observed], now: float) -> None:
        self.rollout = Rollout()
        self.rollout.CopyFrom(newest.rollout)
        self._newest, self._now = newest, now
        seen = sorted(workers, key=lambda worker: worker.worker_id)
        self._alive = {worker.worker_id: worker for worker in seen if not worker.draining}
        self._draining = {worker.worker_id for worker in seen if worker.draining}
        self._rows = {outcome.worker_id: outcome for outcome in self.rollout.workers}

    def go_on(self) -> None:
        self._hear()
        self._let_go()
        self._expire()
        self._leave_places()
        self._choose_canaries()
        while (event := self._event()) is not None:
            reason = self._why_halted() if event is Event.TOO_MANY_FAILED else ""
            stages.move(self.rollout, event, self._now, reason)
            self._choose_canaries()
        self._give_places()

    def hear_the_rest(self) -> None:
        for worker_id, outcome in self._rows.items():
            if is_under_way(outcome) and worker_id in self._alive:
                outcomes.hear(outcome, self._alive[worker_id], self._revision_id, self._now)

    def hear_the_late(self) -> None:
        for worker_id, worker in self._alive.items():
            attempt = worker.tried(self._revision_id)
            if worker_id in self._rows or (attempt is not None and attempt.HasField("error")):
                outcomes.hear(self._row(worker_id), worker, self._revision_id, self._now)
        gone = [row for row in self.rollout.workers if row.failed and row.worker_id not in self._alive]
        for outcome in gone[:-LATE]:
            self.rollout.workers.remove(outcome)

    @property
    def _revision_id(self) -> str:
        return self._newest.revision_id

    def _row(self, worker_id: str) -> WorkerOutcome:
        if worker_id not in self._rows:
            pending = ApplyPhase.APPLY_PHASE_PENDING
            self._rows[worker_id] = self.rollout.workers.add(worker_id=worker_id, phase=pending)
        return self._rows[worker_id]

    def _hear(self) -> None:
        for worker_id, worker in self._alive.items():
            if worker_id in self._rows or worker.runs(self._revision_id) or worker.tried(self._revision_id):
                outcomes.hear(self._row(worker_id), worker, self._revision_id, self._now)

    def _let_go(self) -> None:
        """Those that drain."""
        for outcome in [row for row in self.rollout.workers if row.worker_id in self._draining and not is_done(row)]:
            self.rollout.workers.remove(outcome)
            del self._rows[outcome.worker_id]

    def _expire(self) -> None:
        for worker_id, outcome in self._rows.items():
            if is_under_way(outcome) and seconds(outcome.offered_at) > self._now:
                # The clock was set back, or another host's is behind. Not later than a deadline from now all the same.
                outcome.offered_at.CopyFrom(timestamp(self._now))
            if outcomes.is_overdue(outcome, self._now):
                outcomes.give_up(outcome, lost=worker_id not in self._alive)

    def _leave_places(self) -> None:
        """Those that are lost in the middle of it, as far as they may."""
        lost = [outcome for outcome in self._rows.values() if self._is_lost(outcome)]
        left = sum(not is_under_way(outcome) for outcome in lost)
        for outcome in [outcome for outcome in lost if is_under_way(outcome)]:
            if left < self.rollout.policy.max_failures:
                outcome.ClearField("offered_at")
                left += 1

    def _is_lost(self, outcome: WorkerOutcome) -> bool:
        return outcome.worker_id not in self._alive and not is_done(outcome)

    def _event(self) -> Event | None:
        match self.rollout.stage:
            case stages.PENDING if self._alive:
                chosen = count(self.rollout.policy.canary, len(self._alive)) > 0
                return Event.CANARIES_CHOSEN if chosen else Event.NO_CANARIES
            case stages.CANARY | stages.ROLLING if self._too_many_failed():
                return Event.TOO_MANY_FAILED
            case stages.CANARY if self._canaries_passed():
                return Event.CANARIES_PASSED
            case stages.ROLLING if self._all_done():
                return Event.ALL_DONE
        return None

    def _failed(self) -> list[WorkerOutcome]:
        """Canaries first."""
        failed = [outcome for outcome in self._rows.values() if outcome.failed]
        return sorted(failed, key=lambda outcome: not outcome.canary)

    def _too_many_failed(self) -> bool:
        failed = self._failed()
        if len(failed) > self.rollout.policy.max_failures or any(outcome.canary for outcome in failed):
            return True
        return self._all_done() and not any(map(_is_applied, self._rows.values()))

    def _all_done(self) -> bool:
        rows = self._rows
        done = all(name in rows and is_done(rows[name]) for name in self._alive)
        return bool(self._alive) and done and not any(map(is_under_way, rows.values()))

    def _canaries(self) -> list[WorkerOutcome]:
        """Those that count: a lost one that has left its place does not."""
        chosen = [outcome for outcome in self._rows.values() if outcome.canary]
        return [outcome for outcome in chosen if not self._is_lost(outcome) or is_under_way(outcome)]

    def _canaries_missing(self) -> list[Observed]:
        number = count(self.rollout.policy.canary, len(self._alive)) - len(self._canaries())
        return self._in_order(filter(self._may_be_canary, self._alive.values()))[: max(0, number)]

    def _may_be_canary(self, worker: Observed) -> bool:
        outcome = self._rows.get(worker.worker_id)
        return outcome is None or not (outcome.canary or outcome.failed)

    def _choose_canaries(self) -> None:
        if self.rollout.stage == stages.CANARY:
            spare = [worker for worker in self._alive.values() if worker.heard and self._may_be_canary(worker)]
            for outcome, _ in zip(filter(self._is_canary_here, self._unreached()), spare, strict=False):
                outcome.canary = False
                outcome.ClearField("offered_at")
            for worker in self._canaries_missing():
                self._chosen(worker).canary = True

    def _unreached(self) -> list[WorkerOutcome]:
        """Those whose processes have not been heard, so that nothing was ever sent to them."""
        alive = self._alive
        rows = [row for row in self._rows.values() if row.worker_id in alive and not is_done(row)]
        return [row for row in rows if not (row.instance_id or alive[row.worker_id].heard)]

    def _canaries_passed(self) -> bool:
        canaries = self._canaries()
        return bool(canaries) and all(map(_is_applied, canaries)) and not self._canaries_missing()

    def _give_places(self) -> None:
        match self.rollout.stage:
            case stages.CANARY:
                chosen = [self._alive[name] for name, outcome in self._rows.items() if self._is_canary_here(outcome)]
            case stages.ROLLING:
                chosen = list(self._alive.values())
            case _:
                return
        most = max(1, count(self.rollout.policy.max_unavailable, len(self._alive)))
        room = most - sum(map(is_under_way, self._rows.values()))
        waiting = [worker for worker in chosen if self._waits(worker.worker_id)]
        short = sum(worker.heard for worker in waiting) - max(0, room)
        for outcome in list(filter(is_under_way, self._unreached()))[: max(0, short)]:
            outcome.ClearField("offered_at")
            room += 1
        for worker in self._in_order(waiting)[: max(0, room)]:
            self._chosen(worker).offered_at.CopyFrom(timestamp(self._now))

    def _chosen(self, worker: Observed) -> WorkerOutcome:
        outcome = self._row(worker.worker_id)
        if worker.heard:
            outcome.instance_id = worker.instance_id
        return outcome

    def _is_canary_here(self, outcome: WorkerOutcome) -> bool:
        return outcome.canary and outcome.worker_id in self._alive

    def _waits(self, worker_id: str) -> bool:
        outcome = self._rows.get(worker_id)
        return outcome is None or not (is_done(outcome) or is_under_way(outcome))

    def _in_order(self, workers: Iterable[Observed]) -> list[Observed]:
        """Those that can be reached and to which it makes a difference come first; then by name."""

        def runs_the_same(worker: Observed) -> bool:
            return worker.running is not None and worker.running.content_hash == self._newest.content_hash

        return sorted(workers, key=lambda worker: (not worker.heard, runs_the_same(worker), worker.worker_id))

    def _why_halted(self) -> str:
        failed, may = self._failed(), self.rollout.policy.max_failures
        named = "; ".join(map(_told, failed[:NAMED])) + (f"; {len(failed) - NAMED} more" if len(failed) > NAMED else "")
        if failed[0].canary:
            return f"a canary failed: {named}"
        if len(failed) > may:
            return f"{len(failed)} failed, and {may} may: {named}"
        return f"no worker runs it: {named}"


def _wanted(newest: Summary, stable: Summary | None, worker: Observed, outcome: WorkerOutcome | None) -> Offer:
    if worker.draining:
        return Offer.NOTHING
    match newest.rollout.stage:
        case stages.COMPLETE:
            its_turn = outcome is None or not is_barred(outcome, worker)
        case stages.PENDING | stages.CANARY | stages.ROLLING:
            its_turn = outcome is not None and _has_part(outcome) and not is_barred(outcome, worker)
        case _:
            its_turn = worker.runs(newest.revision_id)
    if its_turn:
        return Offer.NEWEST
    return Offer.STABLE if stable is not None and _has_less_than(stable, worker) else Offer.NOTHING


def _has_part(outcome: WorkerOutcome) -> bool:
    return is_done(outcome) or (is_under_way(outcome) and bool(outcome.instance_id))


def _has_less_than(stable: Summary, worker: Observed) -> bool:
    """Whether the worker would gain by it, and take it: it refuses what is older than anything that it has tried."""
    place = _place(stable)
    runs = _place(worker.running) if worker.running is not None else (0, 0)
    tried = _place(worker.attempt) if worker.attempt is not None else (0, 0)
    return worker.heard and runs < place and tried <= place


def _place(of: Summary | RunningRevision | RevisionAttempt) -> tuple[int, int]:
    return of.term, of.generation


def _is_applied(outcome: WorkerOutcome) -> bool:
    return outcome.phase == ApplyPhase.APPLY_PHASE_APPLIED and not outcome.failed


def _told(outcome: WorkerOutcome) -> str:
    message = outcome.error.message or "it gave no reason"
    if len(message) > MESSAGE_SHOWN:
        message = f"{message[:MESSAGE_SHOWN]}…"
    about = f"{outcome.error.resource}: " if outcome.error.resource else ""
    return f"{outcome.worker_id} ({about}{message})"
