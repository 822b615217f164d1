"""Whatever workers say, in whatever order, and whoever leads: the rules that every step keeps."""

import math
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.rollouts import NOW, STABLE, abandoned, applied, failing, idle, on_trial, refused, unheard

from troupe.controlplane.outcomes import PROGRESS_DEADLINE, Observed, is_under_way
from troupe.controlplane.policy import resolved
from troupe.controlplane.revisions import Summary
from troupe.controlplane.rollout import Offer, step, wanted
from troupe.controlplane.stages import CANARY, COMPLETE, HALTED, NEXT, ROLLING, UNFINISHED
from troupe.controlplane.succession import fresh
from troupe.v1.rollout_pb2 import Rollout, RolloutPolicy, WorkerOutcome, WorkerShare
from troupe.v1.status_pb2 import ApplyPhase

NAMES = st.sampled_from("abcdef")
SAYS = st.sampled_from((applied, on_trial, refused, failing))
SHARES = st.one_of(
    st.integers(0, 3).map(lambda number: WorkerShare(workers=number)),
    st.sampled_from((0.0, 10.0, 50.0, 100.0)).map(lambda percent: WorkerShare(percent=percent)),
)


class Workers(RuleBasedStateMachine):
    """One revision, and up to six workers that say what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.alive: dict[str, Observed] = {}
        self.processes: dict[str, int] = {}
        self.about = STABLE

    @initialize(canary=SHARES, unavailable=SHARES, failures=st.integers(0, 2))
    def committed(self, canary: WorkerShare, unavailable: WorkerShare, failures: int) -> None:
        policy = RolloutPolicy(canary=canary, max_unavailable=unavailable, max_failures=failures)
        self.about = Summary("newest", "stable", 2, 1, "new", NOW, 1, fresh(resolved(policy), NOW))

    @rule(name=NAMES, heard=st.booleans())
    def starts(self, name: str, heard: bool) -> None:
        process = self._new_process(name)
        self._sees(idle(name, process) if heard else unheard(name, process))

    @rule(name=NAMES)
    def starts_after_a_death(self, name: str) -> None:
        self._sees(abandoned(name, self.about, self._new_process(name)))

    @precondition(lambda self: self.alive)
    @rule(says=SAYS, data=st.data())
    def says(self, says: object, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        assert callable(says)
        self._sees(says(name, self.about, self.processes[name]))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), drains=st.booleans())
    def leaves(self, data: st.DataObject, drains: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        if drains:
            self._sees(replace(self.alive[name], draining=True))
        else:
            del self.alive[name]
            self._steps()

    @rule(seconds=st.sampled_from((-30.0, 1.0, PROGRESS_DEADLINE)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._steps()

    @rule()
    def another_leads(self) -> None:
        """It has what is stored, and has heard nobody yet."""
        stored = Rollout.FromString(self.about.rollout.SerializeToString())
        self.about = replace(self.about, rollout=stored)
        self.alive = {name: unheard(name, self.processes[name]) for name in self.alive}
        self._steps()

    @invariant()
    def a_halted_one_goes_to_nobody_who_does_not_run_it(self) -> None:
        if self.about.rollout.stage == HALTED:
            offers = wanted(self.about, STABLE, self.alive.values())
            assert all(self.alive[name].runs("newest") for name, offer in offers.items() if offer is Offer.NEWEST)

    def teardown(self) -> None:
        """Who waits long enough sees the end, if a worker is there to come to one."""
        if not any(not worker.draining for worker in self.alive.values()):
            return
        for _ in range(2 * len(self.about.rollout.workers) + 2 * len(self.alive) + 2):
            self.now += PROGRESS_DEADLINE
            self._steps()
        assert self.about.rollout.stage not in UNFINISHED

    def _new_process(self, name: str) -> int:
        self.processes[name] = self.processes.get(name, 0) + 1
        return self.processes[name]

    def _sees(self, worker: Observed) -> None:
        self.alive[worker.worker_id] = worker
        self._steps()

    def _steps(self) -> None:
        before, workers = self.about.rollout, list(self.alive.values())
        after = step(self.about, workers, self.now)
        then = replace(self.about, rollout=after)
        assert step(then, workers[::-1], self.now) == after, "the same again, in another order"
        assert _reaches(before.stage, after.stage)
        self._places(before, after)
        if after.stage != before.stage:
            self._ends(after)
        self.about = then

    def _ends(self, rollout: Rollout) -> None:
        """An end is one that may be. Later ones may fail with what is COMPLETE, as many as come."""
        failed = [row for row in rollout.workers if row.failed]
        if rollout.stage == COMPLETE:
            assert len(failed) <= rollout.policy.max_failures
            assert not any(row.canary for row in failed)
            assert any(row.phase == ApplyPhase.APPLY_PHASE_APPLIED for row in rollout.workers)
        if rollout.stage == HALTED:
            assert any(f"{row.worker_id} (" in rollout.reason for row in failed)

    def _places(self, before: Rollout, after: Rollout) -> None:
        had = {row.worker_id for row in before.workers if is_under_way(row)}
        given = [row for row in after.workers if is_under_way(row) and row.worker_id not in had]
        sent = [row for row in given if not self._has_it_on_trial(row)]
        alive = sum(not worker.draining for worker in self.alive.values())
        share = after.policy.max_unavailable
        most = math.ceil(alive * share.percent / 100) if share.HasField("percent") else share.workers
        assert not sent or sum(map(is_under_way, after.workers)) <= max(1, most)
        assert not sent or after.stage in (CANARY, ROLLING)
        canary = after.policy.canary
        if (canary.workers or canary.percent) and before.stage < ROLLING and after.stage in (ROLLING, COMPLETE):
            done = ApplyPhase.APPLY_PHASE_APPLIED
            assert any(row.canary and row.phase == done for row in after.workers), "past no canary"
        assert after.stage != CANARY or all(row.canary for row in sent)

    def _has_it_on_trial(self, row: WorkerOutcome) -> bool:
        tried = self.alive[row.worker_id].tried("newest")
        return tried is not None and tried.phase == ApplyPhase.APPLY_PHASE_PENDING


def _reaches(before: int, after: int) -> bool:
    reached = {before}
    while more := {to for (stage, _), to in NEXT.items() if stage in reached} - reached:
        reached |= more
    return after in reached


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
