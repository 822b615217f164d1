"""The rules of rollouts, each with a way to switch it off: what the simulation misses, it can be trusted with."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest import mock

from fault.simulation_rollout import leader

from troupe.controlplane import outcomes, rollout
from troupe.controlplane.outcomes import Observed
from troupe.controlplane.revisions import Head, Summary, way_back
from troupe.controlplane.rollout import Offer, _Course
from troupe.controlplane.stages import HALTED
from troupe.v1.rollout_pb2 import Rollout

Switch = Callable[[], AbstractContextManager[Any]]


def no_bound() -> AbstractContextManager[Any]:
    """As many as there are may be in the middle of it."""
    return mock.patch.object(rollout, "count", lambda share, alive: alive)


def no_room_taken() -> AbstractContextManager[Any]:
    """Those under way take no room."""
    give = _Course._give_places

    def blind(self: _Course) -> None:
        with mock.patch.object(rollout, "is_under_way", lambda outcome: False):
            give(self)

    return mock.patch.object(_Course, "_give_places", blind)


def no_canaries_first() -> AbstractContextManager[Any]:
    """The others do not wait for the canaries."""
    return mock.patch.object(_Course, "_canaries_passed", lambda self: True)


def no_bar() -> AbstractContextManager[Any]:
    """What failed for good is not failed."""
    return mock.patch.object(_Course, "_too_many_failed", lambda self: False)


def no_deadline() -> AbstractContextManager[Any]:
    """Who hangs may do so for ever."""
    return mock.patch.object(outcomes, "is_overdue", lambda outcome, now: False)


def no_count_of_deaths() -> AbstractContextManager[Any]:
    """A process that died with it on trial is followed by another, and another."""
    return mock.patch.object(outcomes, "ABANDONED_ENOUGH", 10**9)


def no_lost() -> AbstractContextManager[Any]:
    """Who is lost keeps its place, and never fails."""
    deadline = outcomes.is_overdue
    return mock.patch.multiple(
        outcomes, is_overdue=lambda outcome, now: deadline(outcome, now) and bool(outcome.error.reason)
    )


def no_end_of_a_halted_one() -> AbstractContextManager[Any]:
    """Who had a place when it was halted gets it all the same."""
    wanted = rollout._wanted

    def eager(newest: Summary, stable: Summary | None, worker: Observed, row: Any) -> Offer:
        offer = wanted(newest, stable, worker, row)
        return Offer.NEWEST if row is not None and outcomes.is_under_way(row) else offer

    return mock.patch.object(rollout, "_wanted", eager)


def no_write_before_the_offer() -> AbstractContextManager[Any]:
    """Offers follow from what is not stored."""
    turn = leader.Leader._steps

    def hasty(self: leader.Leader, newest_id: str, now: float) -> Any:
        newest, alive = self._summary(newest_id), self.alive(now)
        after = rollout.step(newest, alive, now)
        for worker, offer in rollout.wanted(replace(newest, rollout=after), None, alive).items():
            if offer is Offer.NEWEST:
                self._offer(next(one for one in alive if one.worker_id == worker), newest_id, now)
        yield from turn(self, newest_id, now)

    return mock.patch.object(leader.Leader, "_steps", hasty)


def no_end_to_going_back() -> AbstractContextManager[Any]:
    """A way back that fails is gone back from."""

    def always(newest: Summary, stable: Summary | None) -> bool:
        return newest.rollout.stage == HALTED and stable is not None

    return mock.patch.object(leader, "goes_back", always)


def no_compare_in_the_way_back() -> AbstractContextManager[Any]:
    """The way back is committed whatever came meanwhile."""

    def late(revision_id: str, head: Head, newest: Rollout, stable: Any, now: float) -> Any:
        accepted = way_back(revision_id, head, newest, stable, now)
        accepted.config.generation -= 1
        return accepted

    return mock.patch.object(leader, "way_back", late)


def no_settling() -> AbstractContextManager[Any]:
    """What is gone back from stays ROLLING_BACK."""
    return mock.patch.object(leader, "settled", lambda rollouts, now: {})


def no_new_process() -> AbstractContextManager[Any]:
    """Another process is taken for the one before."""
    return mock.patch.object(outcomes, "_begin_again", lambda outcome: None)


def no_stickiness() -> AbstractContextManager[Any]:
    """An older word of a process that has it takes it away again."""
    return mock.patch.object(outcomes, "is_done", lambda outcome: outcome.failed)


def no_canary_that_halts() -> AbstractContextManager[Any]:
    """A canary may fail as any other."""

    def lenient(self: _Course) -> bool:
        return len(self._failed()) > self.rollout.policy.max_failures

    return mock.patch.object(_Course, "_too_many_failed", lenient)


def no_one_needed() -> AbstractContextManager[Any]:
    """It may be COMPLETE where nobody runs it."""
    return mock.patch.object(rollout, "_is_applied", lambda outcome: True)


def no_unheard() -> AbstractContextManager[Any]:
    """What is remembered of a process before is taken for the word of this one."""
    of = Observed.of

    def trusting(report: Any, draining: bool = False) -> Observed:
        return replace(of(report, draining), heard=True)

    return mock.patch.object(Observed, "of", staticmethod(trusting))


def no_giving_way() -> AbstractContextManager[Any]:
    """Who has a part and was never heard keeps it."""
    return mock.patch.object(_Course, "_unreached", lambda self: [])


def no_late_ones() -> AbstractContextManager[Any]:
    """What becomes of who gets it after it is COMPLETE is not noted."""
    return mock.patch.object(_Course, "hear_the_late", lambda self: None)


def no_joining() -> AbstractContextManager[Any]:
    """Who has no outcome when it is COMPLETE is never offered it."""
    wanted = rollout._wanted

    def strict(newest: Summary, stable: Summary | None, worker: Observed, row: Any) -> Offer:
        return wanted(newest, stable, worker, row) if row is not None else Offer.NOTHING

    return mock.patch.object(rollout, "_wanted", strict)


OFF: Mapping[str, Switch] = {
    name.removeprefix("no_").replace("_", " "): switch for name, switch in globals().items() if name.startswith("no_")
}
