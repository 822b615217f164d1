"""What must hold of every write, every Apply and every end, said without the rules that it checks."""

import math
from collections import Counter

from fault.simulation_rollout.fleet import Worker

from troupe.controlplane.revisions import Accept, Summary
from troupe.controlplane.stages import (
    CANARY,
    COMPLETE,
    HALTED,
    NEXT,
    PENDING,
    ROLLED_BACK,
    ROLLING,
    ROLLING_BACK,
    SUPERSEDED,
    Stage,
    name,
)
from troupe.v1.rollout_pb2 import Rollout, WorkerOutcome, WorkerShare
from troupe.v1.status_pb2 import ApplyPhase


class Broken(AssertionError):
    """A promise is broken."""


class Checks:
    """One schedule's."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.asked: dict[str, str] = {}
        """What users were told is committed: content by revision id."""
        self.ways_back: set[str] = set()
        """The revisions that nobody asked for."""
        self.had: dict[str, set[str]] = {}
        """Where each revision was APPLIED in truth."""
        self.workers: dict[str, Worker] = {}
        """The truth."""
        self.trying: frozenset[str] = frozenset()
        """The workers that the writer knows to have the newest revision on trial."""
        self.ready: frozenset[str] = frozenset()
        """The workers that are alive and stay, and whose processes the writer has heard."""
        self.unheard: frozenset[str] = frozenset()
        """Those that it has not."""

    def commits(self, accepted: Accept, line: list[Summary]) -> None:
        own, *before = accepted.rollouts
        config = accepted.config
        if config.generation != len(line) + 1 or (line and config.parent_revision_id != line[-1].revision_id):
            raise Broken("a revision that does not follow the newest")
        if any(about.revision_id == config.revision_id for about in line):
            raise Broken("an id used twice")
        if own.stage != PENDING or own.workers or (bool(line) != bool(before)):
            raise Broken("a revision that does not begin at the beginning")
        if config.revision_id in self.ways_back:
            self._goes_back(accepted, line)

    def _goes_back(self, accepted: Accept, line: list[Summary]) -> None:
        own, before = accepted.rollouts
        left = line[-1]
        self.counts["ways back"] += 1
        if own.rollback_of_revision_id != left.revision_id or before.rolled_back_by_revision_id == "":
            raise Broken("a way back from another than the newest")
        if left.rollout.stage != HALTED:
            raise Broken(f"a way back from what is {name(left.rollout.stage)}")
        if left.rollout.rollback_of_revision_id:
            raise Broken("a way back from a way back")
        complete = [about for about in line if about.rollout.stage == COMPLETE]
        if complete[-1].content_hash != accepted.config.content_hash:
            raise Broken("a way back to other content than the last COMPLETE one's")
        if own.policy.canary.workers or own.policy.canary.percent:
            raise Broken("a way back with a canary")

    def changes(self, revision_id: str, before: Rollout, after: Rollout, alive: int) -> None:
        self._stage(before.stage, after.stage)
        if after.stage in (CANARY, ROLLING, COMPLETE):
            self._outcomes(revision_id, before, after)
        if after.stage in (HALTED, ROLLING_BACK, SUPERSEDED) and not after.reason:
            raise Broken(f"{name(after.stage)} for no reason")
        old = {row.worker_id: row for row in before.workers}
        placed = [row for row in after.workers if _under_way(row) and not _placed(old.get(row.worker_id))]
        # Those that came back with it on trial took their places themselves.
        sent = [row for row in placed if row.worker_id not in self.trying]
        under_way = sum(map(_under_way, after.workers))
        if sent and under_way > _most(after.policy.max_unavailable, alive):
            raise Broken(f"{under_way} under way among {alive}")
        if after.stage == CANARY and any(not row.canary for row in sent):
            raise Broken("a place before the canaries have passed")
        if before.stage == CANARY and after.stage in (ROLLING, COMPLETE):
            passed = sum(row.canary and row.phase == ApplyPhase.APPLY_PHASE_APPLIED for row in after.workers)
            if passed < min(_count(after.policy.canary, alive), alive):
                raise Broken(f"past {passed} canaries among {alive}")
        if after.stage in (CANARY, ROLLING):
            self._gives_way(after, full=under_way >= _most(after.policy.max_unavailable, alive))
        if after.stage == HALTED and before.stage not in (HALTED, ROLLING_BACK):
            self.counts["halted"] += 1
            if not any(f"{row.worker_id} (" in after.reason for row in after.workers if row.failed):
                raise Broken("halted without a failure that is named")
        if after.stage == COMPLETE != before.stage:
            self.counts["complete"] += 1
            failed = [row for row in after.workers if row.failed]
            if len(failed) > after.policy.max_failures or any(row.canary for row in failed):
                raise Broken("COMPLETE with too many failures")
            if not any(row.phase == ApplyPhase.APPLY_PHASE_APPLIED for row in after.workers):
                raise Broken("COMPLETE and nobody runs it")

    def _gives_way(self, after: Rollout, full: bool) -> None:
        """Who was never heard holds nobody up that could go on."""
        rows = {row.worker_id: row for row in after.workers}
        idle = {row.worker_id for row in after.workers if _under_way(row) and not row.instance_id} & self.unheard
        waiting = {name for name in self.ready if name not in rows or _waits(rows[name])}
        if after.stage == CANARY:
            if idle and any(name not in rows or not (rows[name].canary or rows[name].failed) for name in self.ready):
                raise Broken(f"{idle} were never heard and hold up the canaries")
            waiting = {name for name in waiting if name in rows and rows[name].canary}
        if idle and full and waiting:
            raise Broken(f"{idle} were never heard and have the places that {waiting} wait for")

    def _outcomes(self, revision_id: str, before: Rollout, after: Rollout) -> None:
        old = {row.worker_id: row for row in before.workers}
        for row in after.workers:
            worker, was = self.workers[row.worker_id], old.get(row.worker_id)
            if row.abandoned > worker.deaths[revision_id]:
                raise Broken(f"{row.abandoned} deaths of {row.worker_id}, in truth {worker.deaths[revision_id]}")
            if row.phase == ApplyPhase.APPLY_PHASE_APPLIED:
                good = worker.good.revision_id if worker.good is not None else ""
                if row.instance_id == worker.instance_id and good != revision_id:
                    raise Broken(f"{row.worker_id} is taken to run what it does not")
            elif was is not None and (was.phase, was.instance_id) == (
                ApplyPhase.APPLY_PHASE_APPLIED,
                row.instance_id,
            ):
                raise Broken(f"{row.worker_id} is taken not to run what it does")

    def _stage(self, before: Stage, after: Stage) -> None:
        reached = {before}
        while more := {to for (stage, _), to in NEXT.items() if stage in reached} - reached:
            reached |= more
        if after not in reached:
            raise Broken(f"from {name(before)} to {name(after)}")
        if after == ROLLED_BACK != before:
            self.counts["rolled back"] += 1
        if after == SUPERSEDED != before:
            self.counts["superseded"] += 1

    def sends(self, about: Summary, worker_id: str, runs: bool, newest: bool) -> None:
        """A leader that leads sends this revision to this worker, which runs it in truth or not."""
        stage = about.rollout.stage
        if not newest:
            if stage != COMPLETE:
                raise Broken(f"an old revision that is {name(stage)} goes to {worker_id}")
            self.counts["stable"] += 1
            return
        self.counts["sent"] += 1
        row = next((row for row in about.rollout.workers if row.worker_id == worker_id), None)
        if stage == CANARY and not (row is not None and row.canary):
            raise Broken(f"{worker_id} gets it before the canaries have passed")
        if stage in (CANARY, ROLLING) and not (row is not None and row.HasField("offered_at")):
            raise Broken(f"{worker_id} gets it without a place that is stored")
        if stage == ROLLING and _count(about.rollout.policy.canary, 1) and not self.had.get(about.revision_id):
            raise Broken(f"{worker_id} gets what no canary runs")
        if row is not None and row.abandoned > 1:
            raise Broken(f"{worker_id} gets what killed it twice")
        if stage not in (CANARY, ROLLING, COMPLETE) and not runs:
            raise Broken(f"{worker_id} gets what is {name(stage)}")


def _placed(row: WorkerOutcome | None) -> bool:
    return row is not None and _under_way(row)


def _under_way(row: WorkerOutcome) -> bool:
    return row.HasField("offered_at") and not row.failed and row.phase != ApplyPhase.APPLY_PHASE_APPLIED


def _waits(row: WorkerOutcome) -> bool:
    return not (row.HasField("offered_at") or row.failed or row.phase == ApplyPhase.APPLY_PHASE_APPLIED)


def _most(share: WorkerShare, alive: int) -> int:
    return max(1, _count(share, alive))


def _count(share: WorkerShare, alive: int) -> int:
    if share.WhichOneof("kind") == "percent":
        return math.ceil(share.percent * alive / 100)
    return share.workers
