"""`troupe apply` and `troupe delete` against a control plane that keeps revisions."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.canned_fleet import CannedFleet, canned_fleet
from support.fleets import agent, fleet, model, tool

from troupe.chassis.errors import Aborted, InvalidArgument, Violation
from troupe.chassis.wire import timestamp
from troupe.v1 import control_plane_pb2, status_pb2, turn_pb2
from troupe.v1.control_plane_pb2 import RevisionInfo, WatchStatusResponse
from troupe.v1.rollout_pb2 import FailurePolicy, Rollout, RolloutPolicy, RolloutStage, WorkerOutcome, WorkerShare

CLERK = """\
apiVersion: troupe.dev/v1
kind: Agent
metadata: {name: clerk}
spec:
  model: default
  maxSteps: 4
"""
MODEL = """\
apiVersion: troupe.dev/v1
kind: Model
metadata: {name: default}
spec: {}
"""


@pytest.fixture
def canned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[CannedFleet]:
    with canned_fleet(capsys, monkeypatch, tmp_path) as served:
        yield served


def names(canned: CannedFleet) -> list[str]:
    return [f"{one.kind}/{one.metadata.name}" for one in canned.control_plane.revisions[-1].resources]


def test_the_first_apply_makes_the_first_revision(canned: CannedFleet) -> None:
    run = canned.troupe("apply", "-f", canned.write("clerk.yaml", CLERK), "-f", canned.write("model.yaml", MODEL))
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines()[:2] == ["+ Agent/default/clerk", "+ Model/default/default"]
    assert run.out.splitlines()[2].startswith("revision 1 (2 resources)")
    assert canned.control_plane.syncs[0].parent_revision_id == ""


def test_what_the_files_do_not_name_stays(canned: CannedFleet) -> None:
    canned.control_plane.commit(model("default"), tool("calculator"))
    run = canned.troupe("apply", "-f", canned.write("clerk.yaml", CLERK))
    assert run.code == 0
    assert names(canned) == ["Agent/clerk", "Model/default", "Tool/calculator"]
    assert canned.control_plane.syncs[0].parent_revision_id == "revision-1"


def test_prune_makes_the_files_the_whole_set(canned: CannedFleet) -> None:
    canned.control_plane.commit(model("default"), tool("calculator"))
    both = canned.write("both.yaml", f"{CLERK}---\n{MODEL}")
    run = canned.troupe("apply", "-f", both, "--prune")
    assert "- Tool/default/calculator" in run.out.splitlines()
    assert names(canned) == ["Agent/clerk", "Model/default"]


def test_without_a_difference_there_is_no_revision(canned: CannedFleet) -> None:
    path = canned.write("model.yaml", MODEL)
    canned.troupe("apply", "-f", path)
    run = canned.troupe("apply", "-f", path)
    assert (run.code, run.out) == (0, "unchanged\n")
    assert len(canned.control_plane.syncs) == 1


def test_a_changed_field_is_shown_with_both_values(canned: CannedFleet) -> None:
    canned.control_plane.commit(agent("clerk"), model("default"))
    run = canned.troupe("apply", "-f", canned.write("clerk.yaml", CLERK))
    assert run.out.splitlines()[:2] == ["~ Agent/default/clerk", "    spec.maxSteps: (absent) -> 4"]


def test_a_dry_run_stores_nothing(canned: CannedFleet) -> None:
    canned.control_plane.commit(model("default"))
    run = canned.troupe("apply", "-f", canned.write("clerk.yaml", CLERK), "--dry-run")
    assert run.code == 0
    assert run.out.splitlines()[0] == "+ Agent/default/clerk"
    assert canned.control_plane.syncs[0].validate_only
    assert names(canned) == ["Model/default"]


def test_somebody_faster_is_merged_with(canned: CannedFleet) -> None:
    """Given a revision that lands between the read and the Sync, when applied, then both are in the result."""
    canned.control_plane.commit(model("default"))

    def interfere() -> None:
        canned.control_plane.before_sync = lambda: None
        canned.control_plane.commit(model("default"), tool("calculator"))

    canned.control_plane.before_sync = interfere
    run = canned.troupe("apply", "-f", canned.write("clerk.yaml", CLERK))
    assert run.code == 0
    assert names(canned) == ["Agent/clerk", "Model/default", "Tool/calculator"]
    assert len({sync.revision_id for sync in canned.control_plane.syncs}) == 2


def test_it_gives_up_where_others_never_stop(canned: CannedFleet) -> None:
    canned.control_plane.errors = [Aborted("STALE_PARENT", "another revision is current") for _ in range(9)]
    run = canned.troupe("apply", "-f", canned.write("model.yaml", MODEL))
    assert run.code == 1
    assert run.err.startswith("error: others changed the fleet 5 times")
    assert len(run.err.splitlines()) == 1


def test_manifests_come_from_a_directory_and_from_stdin(canned: CannedFleet) -> None:
    canned.write("model.yaml", MODEL)
    canned.write("notes.txt", "not a manifest")
    run = canned.troupe("apply", "-f", str(canned.directory), "-f", "-", stdin=CLERK)
    assert run.code == 0
    assert names(canned) == ["Agent/clerk", "Model/default"]


def test_every_mistake_has_a_line_and_nothing_changes(canned: CannedFleet) -> None:
    path = canned.write("bad.yaml", CLERK.replace("maxSteps: 4", "maxStep: many\n  tools: calculator"))
    run = canned.troupe("apply", "-f", path)
    assert run.code == 2
    first, second = run.err.splitlines()
    assert first == f'error: {path}:6: spec.maxStep: unknown field; did you mean "maxSteps"?'
    assert second.startswith(f"error: {path}:7: spec.tools: a list is expected")
    assert not canned.control_plane.syncs


def test_what_the_server_refuses_is_shown_where_it_is_written(canned: CannedFleet) -> None:
    canned.control_plane.errors = [
        InvalidArgument(
            "INVALID_RESOURCES",
            "1 violation",
            violations=[Violation("Agent/default/clerk spec.model", 'there is no Model "default"')],
        )
    ]
    path = canned.write("clerk.yaml", CLERK)
    run = canned.troupe("apply", "-f", path)
    assert run.code == 2
    assert run.err == f'error: {path}:5: spec.model: there is no Model "default"\n'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-f", "missing.yaml"), "no file or directory missing.yaml"),
        ((), "Missing option '--file'"),
        (("-f", "-", "--timeout", "soon"), "'soon' is no duration"),
    ],
)
def test_misuse_is_one_line_and_exit_2(canned: CannedFleet, arguments: tuple[str, ...], said: str) -> None:
    run = canned.troupe("apply", *arguments)
    assert run.code == 2
    assert len(run.err.splitlines()) == 1
    assert said in run.err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--canary", "some", "'some' is no amount of workers; write for example 3, or 25%"),
        ("--canary", "150%", "150% is more than all workers"),
        ("--canary", "1.5", "1.5 is no whole number of workers"),
        ("--canary", "70000", "70000 is too many workers"),
        ("--max-unavailable", "0", "0 would let nobody go on; write at least 1, or more than 0%"),
        ("--max-unavailable", "0%", "0% would let nobody go on"),
        ("--max-failures", "-1", "Input should be greater than or equal to 0"),
        ("--on-failure", "explode", "'explode' is not one of 'roll-back', 'halt'"),
    ],
)
def test_a_wrong_amount_is_one_line_and_exit_2(canned: CannedFleet, option: str, value: str, said: str) -> None:
    run = canned.troupe("apply", "-f", "-", option, value)
    assert run.code == 2
    assert said in run.err
    assert len(run.err.splitlines()) == 1


def test_without_a_control_plane_it_says_what_to_do(canned: CannedFleet) -> None:
    run = canned.troupe("apply", "-f", canned.write("model.yaml", MODEL), "--server", "127.0.0.1:1")
    assert run.code == 1
    assert run.err == (
        "error: no control plane answers at 127.0.0.1:1; start a fleet with `troupe up`, "
        "or name another address with --server\n"
    )


def rolled_out(
    *stages: "RolloutStage.ValueType", policy: RolloutPolicy | None = None, **outcome: Any
) -> Callable[[RevisionInfo], Iterable[WatchStatusResponse]]:
    """One worker, and a rollout that goes through these stages after the snapshot."""

    def said(revision: RevisionInfo) -> Iterable[WatchStatusResponse]:
        yield WatchStatusResponse(worker=control_plane_pb2.WorkerStatus(worker_id="worker-0"))
        yield WatchStatusResponse(synced=control_plane_pb2.Synced(current=revision))
        for stage in stages:
            newest = RevisionInfo()
            newest.CopyFrom(revision)
            worker = WorkerOutcome(worker_id="worker-0", **outcome)
            newest.rollout.CopyFrom(Rollout(stage=stage, policy=policy, reason="it is bad", workers=[worker]))
            yield WatchStatusResponse(revision=newest)

    return said


def test_a_policy_is_sent_as_it_was_asked_for(canned: CannedFleet) -> None:
    path = canned.write("model.yaml", MODEL)
    asked = ["--canary", "0", "--max-unavailable", "12.5%", "--max-failures", "0", "--on-failure", "halt"]
    canned.troupe("apply", "-f", path, *asked)
    assert canned.control_plane.syncs[0].rollout == RolloutPolicy(
        canary=WorkerShare(workers=0),
        max_unavailable=WorkerShare(percent=12.5),
        max_failures=0,
        on_failure=FailurePolicy.FAILURE_POLICY_HALT,
    )


def test_what_is_not_asked_for_is_left_to_the_control_plane(canned: CannedFleet) -> None:
    canned.troupe("apply", "-f", canned.write("model.yaml", MODEL))
    assert canned.control_plane.syncs[0].rollout == RolloutPolicy()


def test_wait_ends_when_the_rollout_is_complete(canned: CannedFleet) -> None:
    applied = status_pb2.APPLY_PHASE_APPLIED
    canned.control_plane.status = rolled_out(RolloutStage.ROLLOUT_STAGE_COMPLETE, phase=applied)
    run = canned.troupe("apply", "-f", canned.write("model.yaml", MODEL), "--wait")
    assert run.code == 0
    assert run.out.splitlines()[-2:] == ["worker-0: APPLIED", "COMPLETE: 1 applied"]


def test_a_watch_that_breaks_is_opened_again(canned: CannedFleet) -> None:
    """Given a stream that ends in the middle of the rollout, when it is opened again, then it goes on to the end."""

    def broken(revision: RevisionInfo) -> Iterable[WatchStatusResponse]:
        canned.control_plane.status = rolled_out(
            RolloutStage.ROLLOUT_STAGE_COMPLETE, phase=status_pb2.APPLY_PHASE_APPLIED
        )
        return rolled_out(RolloutStage.ROLLOUT_STAGE_CANARY, canary=True, offered_at=timestamp(1.0))(revision)

    canned.control_plane.status = broken
    run = canned.troupe("apply", "-f", canned.write("model.yaml", MODEL), "--wait")
    assert run.code == 0
    assert run.out.splitlines()[2:] == [
        "CANARY: worker-0 goes first",
        "worker-0: SENT",
        "the control plane does not answer; still waiting",
        "the control plane answers again",
        "worker-0: APPLIED",
        "COMPLETE: 1 applied",
    ]


def test_wait_fails_with_worker_resource_and_reason_where_it_halts(canned: CannedFleet) -> None:
    error = turn_pb2.ErrorDetail(message="no module named fleet", resource="Tool/default/calculator")
    canned.control_plane.status = rolled_out(
        RolloutStage.ROLLOUT_STAGE_HALTED, phase=status_pb2.APPLY_PHASE_ROLLED_BACK, error=error, failed=True
    )
    run = canned.troupe("apply", "-f", canned.write("model.yaml", MODEL), "--wait")
    assert run.code == 1
    assert run.out.splitlines()[-1] == "worker-0: ROLLED_BACK: Tool/default/calculator: no module named fleet"
    assert run.err.startswith("error: revision 1 is HALTED: it is bad; ")


def test_wait_says_who_is_missing_when_its_time_is_over(canned: CannedFleet) -> None:
    canned.control_plane.status = rolled_out(RolloutStage.ROLLOUT_STAGE_CANARY, offered_at=timestamp(1.0))
    run = canned.troupe("apply", "-f", canned.write("model.yaml", MODEL), "--wait", "--timeout", "300ms")
    assert run.code == 1
    assert "revision 1 is CANARY after 0.3 s (worker-0: SENT); the rollout goes on" in run.err


def test_json_has_revision_changes_and_rollout_in_one_document(canned: CannedFleet) -> None:
    canned.control_plane.commit(agent("clerk"), model("default"))
    applied = status_pb2.APPLY_PHASE_APPLIED
    canned.control_plane.status = rolled_out(RolloutStage.ROLLOUT_STAGE_COMPLETE, phase=applied)
    run = canned.troupe("apply", "-f", canned.write("clerk.yaml", CLERK), "--wait", "-o", "json")
    document = json.loads(run.out)
    assert document["revision"]["generation"] == "2"
    assert document["revision"]["rollout"]["stage"] == "ROLLOUT_STAGE_COMPLETE"
    assert document["changes"] == [
        {
            "action": "changed",
            "resource": "Agent/default/clerk",
            "fields": [{"path": "spec.maxSteps", "old": None, "new": 4}],
        }
    ]
    assert document["workers"] == [{"workerId": "worker-0", "phase": "APPLIED", "reason": ""}]


def test_delete_takes_one_resource_out(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet())
    run = canned.troupe("delete", "agents", "clerk")
    assert (run.code, run.out.splitlines()[0]) == (0, "- Agent/default/clerk")
    assert names(canned) == ["Model/default", "Tool/calculator"]


def test_delete_of_what_is_not_there_changes_nothing(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet())
    run = canned.troupe("delete", "agent", "clerk", "-n", "elsewhere")
    assert run.code == 1
    assert run.err.startswith("error: there is no Agent/elsewhere/clerk; ")
    assert not canned.control_plane.syncs


def test_delete_names_what_still_refers_to_it(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet())
    canned.control_plane.errors = [
        InvalidArgument(
            "INVALID_RESOURCES",
            "1 violation",
            violations=[Violation("Agent/default/clerk spec.tools[0]", 'there is no Tool "calculator"')],
        )
    ]
    run = canned.troupe("delete", "tool", "calculator")
    assert run.code == 2
    assert run.err == ('error: Agent/default/clerk: spec.tools[0]: there is no Tool "calculator"; change that first\n')
