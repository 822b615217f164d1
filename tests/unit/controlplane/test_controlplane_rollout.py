"""How the newest revision reaches the workers: places, canaries, failures, losses, ends."""

import pytest
from support.rollouts import (
    NOW,
    STABLE,
    abandoned,
    after,
    applied,
    failing,
    idle,
    newest,
    on_trial,
    outcome,
    refused,
    stage,
    tried,
    under_way,
    unheard,
)

from troupe.controlplane.outcomes import PROGRESS_DEADLINE, Observed
from troupe.controlplane.revisions import Summary
from troupe.controlplane.rollout import goes_back, step, wanted
from troupe.v1.rollout_pb2 import FailurePolicy, RolloutPolicy
from troupe.v1.status_pb2 import Health, HealthState, StatusReport

LATE = NOW + PROGRESS_DEADLINE


def offers(about: Summary, *workers: Observed, stable: Summary | None = STABLE) -> dict[str, str]:
    return {worker_id: offer.name for worker_id, offer in wanted(about, stable, workers).items()}


def test_nothing_begins_without_a_worker() -> None:
    assert stage(after(newest())) == "PENDING"


def test_one_canary_first_and_then_the_others_a_few_at_a_time() -> None:
    fleet = [idle("a"), idle("b"), idle("c"), idle("d")]
    about = after(newest(canary=1, unavailable=2), *fleet)
    assert (stage(about), under_way(about)) == ("CANARY", ["a"])
    assert offers(about, *fleet) == {"a": "NEWEST", "b": "NOTHING", "c": "NOTHING", "d": "NOTHING"}

    about = after(about, on_trial("a", about), *fleet[1:])
    assert (stage(about), under_way(about)) == ("CANARY", ["a"])

    about = after(about, applied("a", about), *fleet[1:])
    assert (stage(about), under_way(about)) == ("ROLLING", ["b", "c"])

    about = after(about, applied("a", about), applied("b", about), on_trial("c", about), fleet[3])
    assert under_way(about) == ["c", "d"]

    about = after(about, *(applied(name, about) for name in "abcd"))
    assert stage(about) == "COMPLETE"


def test_without_canaries_it_goes_to_all_at_once_as_far_as_it_may() -> None:
    about = after(newest(canary=0, unavailable=2), idle("a"), idle("b"), idle("c"))
    assert (stage(about), under_way(about)) == ("ROLLING", ["a", "b"])


def test_canaries_too_are_no_more_at_once_than_may_be_unavailable() -> None:
    about = after(newest(canary=2, unavailable=1), idle("a"), idle("b"), idle("c"))
    assert under_way(about) == ["a"]
    about = after(about, applied("a", about), idle("b"), idle("c"))
    assert (stage(about), under_way(about)) == ("CANARY", ["b"])


def test_a_canary_that_runs_it_already_has_passed() -> None:
    about = newest(canary=1)
    about = after(about, applied("a", about))
    assert (stage(about), outcome(about, "a").canary) == ("COMPLETE", True)


def test_those_that_can_be_reached_and_run_other_content_come_first() -> None:
    about = newest(canary=0, unavailable=1)
    same = Summary("other", "", 1, 1, about.content_hash, NOW, 1)
    about = after(about, unheard("a"), idle("b", runs=same), idle("c"))
    assert under_way(about) == ["c"]


def test_a_canary_that_was_never_heard_gives_its_part_to_one_that_is() -> None:
    about = after(newest(canary=1), unheard("a"))
    assert (under_way(about), outcome(about, "a").canary) == (["a"], True)
    assert offers(about, unheard("a")) == {"a": "NOTHING"}, "who was not heard is sent nothing"

    about = after(about, unheard("a"), idle("b"))
    assert (stage(about), under_way(about)) == ("CANARY", ["b"])
    assert (outcome(about, "a").canary, outcome(about, "b").canary) == (False, True)

    about = after(about, idle("a"), idle("b"))
    assert under_way(about) == ["b"], "once it may have been sent, it stays"
    about = after(about, unheard("b"), idle("a"))
    assert under_way(about) == ["b"], "for the leader that comes next too"


def test_a_canary_that_is_heard_in_time_keeps_its_part() -> None:
    about = after(newest(canary=1), unheard("b"))
    about = after(about, idle("a"), idle("b"))
    assert under_way(about) == ["b"]
    assert offers(about, idle("b")) == {"b": "NEWEST"}


def test_who_was_never_heard_takes_no_place_from_one_that_waits() -> None:
    about = after(newest(canary=0, unavailable=1), unheard("a"))
    assert under_way(about) == ["a"]
    about = after(about, unheard("a"), idle("b"), idle("c"))
    assert under_way(about) == ["b"]
    about = after(about, unheard("a"), applied("b", about), applied("c", about))
    assert under_way(about) == ["a"], "it gets one when nobody else needs it"


def test_what_kills_a_worker_that_joins_late_twice_is_not_brought_to_it_again() -> None:
    about = newest(canary=0)
    about = after(about, applied("a", about))
    assert stage(about) == "COMPLETE"
    about = after(about, applied("a", about), on_trial("b", about))
    assert [row.worker_id for row in about.rollout.workers] == ["a"]
    about = after(about, applied("a", about), abandoned("b", about, 2))
    assert offers(about, abandoned("b", about, 2)) == {"b": "NEWEST"}
    about = after(about, applied("a", about), abandoned("b", about, 3))
    assert offers(about, abandoned("b", about, 4)) == {"b": "NOTHING"}
    assert (stage(about), outcome(about, "b").failed, outcome(about, "b").abandoned) == ("COMPLETE", True, 2)


def test_of_those_that_failed_late_and_are_gone_the_latest_are_kept() -> None:
    about = newest(canary=0)
    about = after(about, applied("a", about))
    for first in range(0, 1_200, 400):
        about = after(about, applied("a", about), *(refused(f"b{n:04}", about) for n in range(first, first + 400)))
    about = after(about, applied("a", about))
    names = [row.worker_id for row in about.rollout.workers]
    assert (names[:2], names[-1], len(names)) == (["a", "b0200"], "b1199", 1_001)


def test_canaries_that_wait_take_the_places_of_those_never_heard() -> None:
    about = after(newest(canary=2, unavailable=1), unheard("a"))
    about = after(about, unheard("a"), idle("b"))
    assert (under_way(about), outcome(about, "a").canary, outcome(about, "b").canary) == (["b"], True, True)


def test_a_canary_that_fails_halts_whatever_may_fail_and_says_why() -> None:
    about = newest(canary=1, failures=5)
    about = after(about, idle("a"), idle("b"))
    about = after(about, refused("a", about), idle("b"))
    assert stage(about) == "HALTED"
    assert about.rollout.reason == "a canary failed: a (Agent/default/clerk: no module)"
    assert outcome(about, "a").error.resource == "Agent/default/clerk"


def test_as_many_as_may_fail_do_and_are_listed() -> None:
    about = after(newest(canary=0, unavailable=3, failures=1), idle("a"), idle("b"), idle("c"))
    about = after(about, refused("a", about), applied("b", about), applied("c", about))
    assert stage(about) == "COMPLETE"
    assert outcome(about, "a").failed
    assert offers(about, refused("a", about), applied("b", about)) == {"a": "NOTHING", "b": "NEWEST"}


def test_one_more_halts_and_each_is_named() -> None:
    about = after(newest(canary=0, unavailable=3, failures=1), idle("a"), idle("b"), idle("c"))
    about = after(about, refused("a", about), refused("b", about), on_trial("c", about))
    assert stage(about) == "HALTED"
    assert about.rollout.reason.startswith("2 failed, and 1 may: a (Agent/default/clerk: no module); b (")


def test_what_no_worker_runs_is_not_complete() -> None:
    about = after(newest(canary=0, failures=1), idle("a"))
    about = after(about, refused("a", about))
    assert (stage(about), about.rollout.reason[:19]) == ("HALTED", "no worker runs it: ")


def test_a_halted_one_goes_to_no_other_worker_and_is_not_taken_from_those_that_run_it() -> None:
    about = after(newest(canary=0, unavailable=3, failures=0), idle("a"), idle("b"), idle("c"), idle("d"))
    about = after(about, refused("a", about), on_trial("b", about), idle("c"), idle("d"))
    found = offers(about, refused("a", about), on_trial("b", about), idle("c"), idle("d", runs=None))
    assert found == {"a": "NOTHING", "b": "NEWEST", "c": "NOTHING", "d": "STABLE"}


def test_those_in_the_middle_of_a_halted_one_are_heard_to_their_end() -> None:
    about = after(newest(canary=0, unavailable=3, failures=0), idle("a"), idle("b"))
    about = after(about, refused("a", about), on_trial("b", about))
    about = after(about, refused("a", about), applied("b", about), idle("c"))
    assert stage(about) == "HALTED"
    assert [row.worker_id for row in about.rollout.workers] == ["a", "b"]
    assert outcome(about, "b").phase == tried(about, "APPLIED").phase


def test_a_failure_that_may_pass_keeps_its_place_until_the_deadline() -> None:
    about = after(newest(canary=0, failures=0), idle("a"), idle("b"))
    about = after(about, failing("a", about), idle("b"), now=LATE - 0.001)
    assert (stage(about), under_way(about)) == ("ROLLING", ["a"])
    about = after(about, failing("a", about), idle("b"), now=LATE)
    assert stage(about) == "HALTED"
    assert "model is down" in about.rollout.reason


def test_who_hangs_fails_at_the_deadline_and_holds_up_nobody_else() -> None:
    about = after(newest(canary=0, unavailable=2, failures=1), idle("a"), idle("b"), idle("c"))
    about = after(about, idle("a"), applied("b", about), idle("c"))
    about = after(about, idle("a"), applied("b", about), applied("c", about))
    assert stage(about) == "ROLLING"
    about = after(about, idle("a"), applied("b", about), applied("c", about), now=LATE)
    assert (stage(about), outcome(about, "a").error.reason) == ("COMPLETE", "NO_PROGRESS")


def test_a_clock_that_is_set_back_does_not_put_the_deadline_off() -> None:
    about = after(newest(canary=0, failures=0), idle("a"), now=NOW)
    earlier = NOW - 86_400
    about = after(about, idle("a"), now=earlier)
    assert stage(after(about, idle("a"), now=earlier + PROGRESS_DEADLINE)) == "HALTED"


def test_a_process_that_died_with_it_is_tried_once_more() -> None:
    about = after(newest(canary=1, failures=0), idle("a"), idle("b"))
    about = after(about, abandoned("a", about, process=2), idle("b"))
    assert (stage(about), outcome(about, "a").abandoned) == ("CANARY", 1)
    assert offers(about, abandoned("a", about, 2)) == {"a": "NEWEST"}
    about = after(about, abandoned("a", about, process=2), idle("b"))
    about = after(about, on_trial("a", about, process=2), idle("b"))
    about = after(about, abandoned("a", about, process=2), idle("b"))
    assert (stage(about), outcome(about, "a").abandoned) == ("CANARY", 1), "a late word of the same process"
    about = after(about, abandoned("a", about, process=3), idle("b"))
    assert stage(about) == "HALTED"


def test_a_refusal_binds_its_process_and_two_deaths_every_one() -> None:
    about = after(newest(canary=0, unavailable=3, failures=2), idle("a"), idle("b"), idle("c"))
    about = after(about, refused("a", about), abandoned("b", about, 2), applied("c", about))
    about = after(about, refused("a", about), abandoned("b", about, 3), applied("c", about))
    assert stage(about) == "COMPLETE"
    found = offers(about, idle("a", process=2), idle("b", process=4))
    assert found == {"a": "NEWEST", "b": "NOTHING"}


def test_a_worker_that_starts_anew_without_it_takes_it_anew() -> None:
    about = after(newest(canary=0, unavailable=1, failures=0), idle("a"), idle("b"), idle("c"))
    about = after(about, applied("a", about), idle("b"), idle("c"))
    about = after(about, idle("a", process=2, runs=None), idle("b"), idle("c"))
    assert under_way(about) == ["b"]
    about = after(about, idle("a", process=2, runs=None), applied("b", about), applied("c", about))
    assert (stage(about), under_way(about)) == ("ROLLING", ["a"])


def test_older_words_of_a_process_that_has_it_take_nothing_away() -> None:
    about = after(newest(canary=0, unavailable=1), idle("a"), idle("b"))
    about = after(about, applied("a", about), idle("b"))
    for late in (idle("a"), on_trial("a", about), failing("a", about)):
        about = after(about, late, idle("b"))
        assert under_way(about) == ["b"]


def test_a_worker_that_joins_in_the_middle_is_taken_in() -> None:
    about = after(newest(canary=0, unavailable=1), idle("a"))
    about = after(about, applied("a", about), idle("b", runs=None))
    assert (stage(about), under_way(about)) == ("ROLLING", ["b"])


def test_a_worker_that_comes_after_the_end_gets_it() -> None:
    about = after(newest(canary=0), idle("a"))
    about = after(about, applied("a", about))
    assert offers(about, idle("z", runs=None)) == {"z": "NEWEST"}


def test_a_lost_worker_gives_its_place_and_its_part_to_another() -> None:
    about = after(newest(canary=1, unavailable=1), idle("a"), idle("b"))
    about = after(about, idle("b"))
    assert (stage(about), under_way(about)) == ("CANARY", ["b"])
    about = after(about, applied("b", about))
    assert stage(about) == "COMPLETE", "it held nothing up"


def test_a_lost_worker_that_is_back_waits_for_a_place() -> None:
    about = after(newest(canary=0, unavailable=1), idle("a"), idle("b"))
    about = after(about, idle("b"))
    about = after(about, idle("a"), idle("b"))
    assert under_way(about) == ["b"]
    assert offers(about, idle("a"), idle("b")) == {"a": "NOTHING", "b": "NEWEST"}


def test_one_that_is_back_with_it_on_trial_is_in_the_middle_of_it() -> None:
    about = after(newest(canary=0, unavailable=1), idle("a"), idle("b"))
    about = after(about, idle("b"))
    about = after(about, on_trial("a", about), idle("b"))
    assert under_way(about) == ["a", "b"]


def test_more_lost_workers_than_may_fail_look_like_its_doing() -> None:
    about = after(newest(canary=1, unavailable=1, failures=1), idle("a"), idle("b"), idle("c"))
    about = after(about, idle("b"), idle("c"))
    about = after(about, idle("c"), now=NOW + 20)
    assert under_way(about) == ["b"], "nobody follows the second"
    about = after(about, idle("c"), now=LATE)
    assert stage(about) == "HALTED"
    assert about.rollout.reason.startswith("a canary failed: b (lost in the middle of it")


def test_a_worker_that_drains_has_left() -> None:
    about = after(newest(canary=0, unavailable=2, failures=0), idle("a"), idle("b"), idle("c"))
    drains = Observed("a", "a.1", draining=True)
    about = after(about, drains, idle("b"), idle("c"))
    assert under_way(about) == ["b", "c"]
    assert offers(about, drains) == {"a": "NOTHING"}
    about = after(about, applied("b", about), applied("c", about))
    assert stage(about) == "COMPLETE"


def test_a_process_that_was_not_heard_comes_last_and_is_not_believed() -> None:
    about = after(newest(canary=0, unavailable=1, failures=0), unheard("a"), idle("b"))
    assert under_way(about) == ["b"]
    about = after(about, unheard("a"), applied("b", about))
    assert (stage(about), under_way(about)) == ("ROLLING", ["a"])
    assert stage(after(about, unheard("a"), applied("b", about), now=LATE)) == "HALTED"


def test_what_a_process_before_tried_is_not_what_this_one_tried() -> None:
    report = StatusReport(worker_id="a", instance_id="a.2", last_attempt=tried(newest(), "ABANDONED", "died"))
    assert Observed.of(report).tried("newest") is None
    report.sequence = 1
    assert Observed.of(report).tried("newest") is not None


def test_a_report_says_that_its_worker_drains() -> None:
    health = Health(state=HealthState.HEALTH_STATE_DRAINING)
    assert Observed.of(StatusReport(worker_id="a", sequence=1, health=health)).draining
    assert Observed.of(StatusReport(worker_id="a", sequence=1), draining=True).draining


def test_who_is_not_reached_yet_gets_the_stable_one_if_it_has_less() -> None:
    about = after(newest(canary=1), idle("a"))
    older = Summary("older", "", 1, 0, "oldest", NOW, 1)
    fleet = [idle("b", runs=None), idle("c", runs=older), idle("d"), unheard("e"), idle("f", runs=None)]
    tried_newer = Observed("f", "f.1", attempt=tried(about, "ROLLED_BACK", "no"))
    found = offers(about, *fleet[:4], tried_newer)
    assert found == {"b": "STABLE", "c": "STABLE", "d": "NOTHING", "e": "NOTHING", "f": "NOTHING"}
    assert set(offers(about, *fleet, stable=None).values()) == {"NOTHING"}


@pytest.mark.parametrize(
    ("policy", "stable", "rollback_of", "expected"),
    [
        (FailurePolicy.FAILURE_POLICY_ROLL_BACK, STABLE, "", True),
        (FailurePolicy.FAILURE_POLICY_HALT, STABLE, "", False),
        (FailurePolicy.FAILURE_POLICY_ROLL_BACK, None, "", False),
        (FailurePolicy.FAILURE_POLICY_ROLL_BACK, STABLE, "another", False),
    ],
)
def test_when_it_goes_back(
    policy: FailurePolicy.ValueType, stable: Summary | None, rollback_of: str, expected: bool
) -> None:
    about = newest(policy=RolloutPolicy(on_failure=policy))
    about.rollout.rollback_of_revision_id = rollback_of
    about = after(about, idle("a"))
    assert not goes_back(about, stable), "it has not failed yet"
    assert goes_back(after(about, refused("a", about)), stable) == expected


def test_a_step_leaves_what_it_was_given_as_it_is() -> None:
    about = newest()
    before = about.rollout.SerializeToString()
    step(about, [idle("a")], NOW)
    assert about.rollout.SerializeToString() == before


def test_reasons_are_bounded() -> None:
    about = after(newest(canary=0, unavailable=9, failures=0), *(idle(name) for name in "abcdefg"))
    loud = [Observed(name, f"{name}.1", attempt=tried(about, "ROLLED_BACK", f"{name} " * 5_000)) for name in "abcdefg"]
    about = after(about, *loud)
    assert about.rollout.reason.endswith("; 4 more")
    assert len(about.rollout.reason) < 1_500
