"""A rollout in words: where each worker is, what a stage means, and how both are drawn."""

import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from troupe.chassis.wire import timestamp
from troupe.cli.rollout import Course, Progress, Stand, by_generation, explained, goes_back, stands, summed
from troupe.cli.rollout_view import Lines, drawn
from troupe.v1 import status_pb2
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus
from troupe.v1.rollout_pb2 import FailurePolicy, Rollout, RolloutPolicy, RolloutStage, WorkerOutcome, WorkerShare
from troupe.v1.status_pb2 import RevisionAttempt, StatusReport
from troupe.v1.turn_pb2 import ErrorDetail

APPLIED = status_pb2.APPLY_PHASE_APPLIED
PENDING = status_pb2.APPLY_PHASE_PENDING
ROLLED_BACK = status_pb2.APPLY_PHASE_ROLLED_BACK
SENT_AT = timestamp(1.0)
POLICY = RolloutPolicy(
    canary=WorkerShare(workers=1),
    max_unavailable=WorkerShare(percent=25),
    max_failures=1,
    on_failure=FailurePolicy.FAILURE_POLICY_ROLL_BACK,
)


def revision(stage: str, *workers: WorkerOutcome, generation: int = 5, **fields: Any) -> RevisionInfo:
    rollout = Rollout(stage=RolloutStage.Value(f"ROLLOUT_STAGE_{stage}"), policy=POLICY, workers=workers, **fields)
    return RevisionInfo(
        revision_id=f"r{generation}", generation=generation, term=1, rollout=rollout, current=stage != "ROLLED_BACK"
    )


def outcome(name: str, **fields: Any) -> WorkerOutcome:
    return WorkerOutcome(worker_id=name, **fields)


def broken(name: str, **fields: Any) -> WorkerOutcome:
    error = ErrorDetail(message="no module y", resource="Tool/default/x")
    return WorkerOutcome(worker_id=name, phase=ROLLED_BACK, error=error, **{"failed": True} | fields)


def worker(name: str, attempt: RevisionAttempt | None = None, *, lost: bool = False) -> WorkerStatus:
    report = StatusReport(worker_id=name, instance_id=f"{name}-1", last_attempt=attempt)
    if lost:
        report.health.state = status_pb2.HEALTH_STATE_LOST
    return WorkerStatus(worker_id=name, report=report)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (outcome("w", phase=APPLIED), Stand("w", Progress.APPLIED, "APPLIED")),
        (outcome("w", phase=PENDING), Stand("w", Progress.WAITING, "WAITING")),
        (outcome("w", phase=PENDING, offered_at=SENT_AT), Stand("w", Progress.UNDER_WAY, "SENT")),
        (broken("w"), Stand("w", Progress.FAILED, "ROLLED_BACK", "Tool/default/x: no module y")),
        (
            broken("w", failed=False, offered_at=SENT_AT),
            Stand("w", Progress.UNDER_WAY, "ROLLED_BACK", "Tool/default/x: no module y; it is tried again"),
        ),
        (
            broken("w", abandoned=2),
            Stand("w", Progress.FAILED, "ROLLED_BACK", "Tool/default/x: no module y (its process died 2 times)"),
        ),
        (
            outcome("w", phase=PENDING, failed=True, error=ErrorDetail(message="no end of it")),
            Stand("w", Progress.FAILED, "FAILED", "no end of it"),
        ),
    ],
)
def test_each_outcome_means_one_thing(of: WorkerOutcome, said: Stand) -> None:
    assert stands(revision("ROLLING", of), [worker("w")]) == [said]


def test_a_worker_that_runs_it_on_trial_is_told_from_one_that_was_only_sent_to() -> None:
    attempt = RevisionAttempt(revision_id="r5", phase=PENDING)
    (found,) = stands(revision("CANARY", outcome("w", phase=PENDING, offered_at=SENT_AT)), [worker("w", attempt)])
    assert str(found) == "w: PENDING: it runs, and its health is watched for a while"


def test_another_revision_on_trial_is_not_this_one() -> None:
    attempt = RevisionAttempt(revision_id="r4", phase=PENDING)
    (found,) = stands(revision("CANARY", outcome("w", phase=PENDING, offered_at=SENT_AT)), [worker("w", attempt)])
    assert found.phase == "SENT"


def test_workers_that_were_not_sent_to_wait_until_the_end() -> None:
    here = [worker("b"), worker("a"), worker("gone", lost=True)]
    assert [str(one) for one in stands(revision("ROLLING", outcome("b", phase=APPLIED)), here)] == [
        "a: WAITING",
        "b: APPLIED",
    ]
    for end in ("COMPLETE", "HALTED", "ROLLING_BACK", "SUPERSEDED"):
        assert [one.worker_id for one in stands(revision(end, outcome("b", phase=APPLIED)), here)] == ["b"]


def test_a_worker_that_is_lost_in_the_middle_does_not_count_and_one_that_failed_before_does() -> None:
    under_way = outcome("a", phase=PENDING, offered_at=SENT_AT)
    found = stands(revision("ROLLING", under_way, broken("b")), [worker("a", lost=True), worker("b", lost=True)])
    assert [one.worker_id for one in found] == ["b"]


def test_what_a_worker_says_cannot_drive_the_terminal() -> None:
    error = ErrorDetail(message="no \x1b[31mmodule")
    (found,) = stands(revision("HALTED", outcome("w", phase=ROLLED_BACK, failed=True, error=error)), [])
    assert "\x1b" not in str(found)
    assert "\x1b" not in explained(revision("HALTED", reason="a canary failed: \x1b[2J"))


def test_numbers_of_workers_are_summed_by_how_far_they_are() -> None:
    rollout = revision("ROLLING", outcome("a", phase=APPLIED), outcome("b", phase=APPLIED), broken("c"))
    assert summed(stands(rollout, [worker("d")])) == "2 applied, 1 failed, 1 waiting"
    assert summed([]) == ""


def test_many_canaries_are_counted() -> None:
    canaries = [outcome(f"w{number}", canary=True) for number in range(5)]
    assert explained(revision("CANARY", *canaries)) == "w0, w1, w2 and 2 others go first"
    assert explained(revision("CANARY", canaries[0])) == "w0 goes first"


def halted(**changes: Any) -> RevisionInfo:
    found = revision("HALTED", broken("a"))
    for name, value in changes.items():
        if name in ("current",):
            setattr(found, name, value)
        elif name == "on_failure":
            found.rollout.policy.on_failure = value
        else:
            setattr(found.rollout, name, value)
    return found


def test_what_halted_goes_back_where_its_policy_and_the_past_allow_it() -> None:
    before = revision("COMPLETE", generation=3)
    assert goes_back(halted(), [halted(), before])
    assert not goes_back(halted(), [halted()])
    assert not goes_back(halted(), [revision("COMPLETE", generation=6)])
    assert not goes_back(halted(on_failure=FailurePolicy.FAILURE_POLICY_HALT), [before])
    assert not goes_back(halted(rollback_of_revision_id="r4"), [before])
    assert not goes_back(halted(current=False), [before])
    assert not goes_back(revision("COMPLETE"), [before])


def test_ids_become_generations() -> None:
    known = [revision("COMPLETE", generation=3), revision("COMPLETE", generation=7)]
    text = "a (x); revision r7 brings back what r3 was; revision other stays"
    assert by_generation(text, known) == "a (x); revision 7 brings back what revision 3 was; revision other stays"


def lines(*courses: Course) -> list[str]:
    said: list[Text] = []
    told = Lines(said.append)
    for one in courses:
        told.seen(one)
    return [text.plain for text in said]


def test_nothing_is_said_twice() -> None:
    sent = outcome("a", phase=PENDING, offered_at=SENT_AT, canary=True)
    course = Course(revision("CANARY", sent), (worker("a"),))
    assert lines(course, course, course) == ["CANARY: a goes first", "a: SENT"]


def test_what_led_to_a_stage_is_told_before_it_though_both_come_at_once() -> None:
    canary, other = outcome("a", phase=APPLIED, canary=True), outcome("b", phase=APPLIED)
    workers = (worker("a"), worker("b"))
    assert lines(Course(revision("ROLLING", canary, other), workers)) == [
        "CANARY: a goes first",
        "a: APPLIED",
        "ROLLING: to all workers, 25% at once",
        "b: APPLIED",
    ]
    assert lines(Course(revision("COMPLETE", canary, other), workers))[-1] == "COMPLETE: 2 applied"


def test_an_end_that_is_bad_is_left_to_whoever_waits() -> None:
    assert lines(Course(revision("HALTED", broken("a"), reason="a canary failed"))) == [
        "a: ROLLED_BACK: Tool/default/x: no module y"
    ]


def picture(course: Course, rows: int = 10, width: int = 70) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    with console.capture() as captured:
        console.print(drawn(course, 12.3, rows))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_rollout_is_drawn_with_each_worker() -> None:
    attempt = RevisionAttempt(revision_id="r5", phase=PENDING)
    rollout = revision(
        "ROLLING",
        outcome("worker-0", phase=APPLIED, canary=True),
        outcome("worker-1", phase=PENDING, offered_at=SENT_AT),
        broken("worker-10"),
    )
    workers = (worker("worker-0"), worker("worker-1", attempt), worker("worker-10"), worker("worker-2"))
    assert picture(Course(rollout, workers), width=110) == [
        "revision 5 ROLLING · to all workers, 25% at once · 1 applied, 1 failed, 1 under way, 1 waiting · 12 s",
        "  worker-0   APPLIED",
        "  worker-1   PENDING      it runs, and its health is watched for a while",
        "  worker-2   WAITING",
        "  worker-10  ROLLED_BACK  Tool/default/x: no module y",
    ]


def test_a_screen_too_small_for_all_shows_those_that_matter() -> None:
    many = [outcome(f"worker-{number:02}", phase=APPLIED) for number in range(20)]
    under_way = outcome("worker-98", phase=PENDING, offered_at=SENT_AT)
    rollout = revision("ROLLING", *many, under_way, broken("worker-99"))
    workers = tuple(worker(one.worker_id) for one in rollout.rollout.workers)
    assert [line.split()[0:2] for line in picture(Course(rollout, workers), rows=4, width=120)[1:]] == [
        ["worker-99", "ROLLED_BACK"],
        ["worker-98", "SENT"],
        ["worker-00", "APPLIED"],
        ["and", "19"],
    ]


def test_a_way_back_is_drawn_below_what_failed() -> None:
    failed = revision("ROLLING_BACK", broken("a"), outcome("b", phase=APPLIED), rolled_back_by_revision_id="r6")
    way_back = revision("ROLLING", outcome("a", phase=APPLIED), generation=6)
    course = Course(failed, (worker("a"), worker("b")), (failed, way_back))
    assert picture(course) == [
        "revision 5 ROLLING_BACK · 1 applied, 1 failed · 12 s",
        "  a  ROLLED_BACK  Tool/default/x: no module y",
        "revision 6 ROLLING · to all workers, 25% at once · 1 applied, 1",
        "waiting",
        "  a  APPLIED",
        "  b  WAITING",
    ]


def test_a_long_reason_is_folded_beside_its_worker() -> None:
    course = Course(revision("HALTED", broken("a"), reason="a canary failed"))
    assert picture(course, width=40)[1:] == [
        "  a  ROLLED_BACK  Tool/default/x: no",
        "                  module y",
    ]


def test_a_control_plane_that_does_not_answer_is_no_secret() -> None:
    course = Course(revision("ROLLING", outcome("a", phase=APPLIED)), (worker("a"),), answers=False)
    assert picture(course)[-2] == "the control plane does not answer; this is what it said last"
