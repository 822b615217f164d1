"""`troupe get`, `status`, `session` and `doctor` against canned servers."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.canned_fleet import CannedFleet, canned_fleet
from support.fleets import agent, fleet, model, tool

from troupe.chassis.errors import NotFound, Unavailable
from troupe.chassis.wire import timestamp
from troupe.cli import clients
from troupe.v1 import agent_pb2, control_plane_pb2, status_pb2, turn_pb2
from troupe.v1.control_plane_pb2 import RevisionInfo, WatchStatusResponse
from troupe.v1.envelope_pb2 import SessionRef


@pytest.fixture
def canned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[CannedFleet]:
    with canned_fleet(capsys, monkeypatch, tmp_path) as served:
        yield served


def test_a_kind_is_listed_as_a_table(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet(), agent("aide", namespace="other"))
    run = canned.troupe("get", "agents")
    lines = [line.split() for line in run.out.splitlines()]
    assert lines == [
        ["NAMESPACE", "NAME", "MODEL", "TOOLS", "DESCRIPTION"],
        ["default", "clerk", "default", "calculator"],
        ["other", "aide", "default", "-"],
    ]
    assert not any(line.endswith(" ") for line in run.out.splitlines())


@pytest.mark.parametrize("kind", ["agent", "Agents", "AGENT"])
def test_a_kind_goes_by_every_name_that_people_type(canned: CannedFleet, kind: str) -> None:
    canned.control_plane.commit(*fleet())
    assert "clerk" in canned.troupe("get", kind).out


def test_an_unknown_kind_is_misuse_with_a_suggestion(canned: CannedFleet) -> None:
    run = canned.troupe("get", "agnets")
    assert run.code == 2
    assert "did you mean agents?" in run.err
    assert len(run.err.splitlines()) == 1


def test_a_namespace_narrows_the_list(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet(), agent("aide", namespace="other"))
    assert [line.split()[1] for line in canned.troupe("get", "agents", "-n", "other").out.splitlines()[1:]] == ["aide"]


def test_yaml_can_be_applied_again(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet(), agent("aide", namespace="other"))
    listed = "".join(canned.troupe("get", kind, "-o", "yaml").out for kind in ("agents", "models", "tools"))
    assert [one["metadata"]["name"] for one in yaml.safe_load_all(listed)] == ["clerk", "aide", "default", "calculator"]
    run = canned.troupe("apply", "-f", "-", stdin=listed)
    assert (run.code, run.out) == (0, "unchanged\n")


def test_one_resource_in_json_can_be_applied_again(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet())
    one = canned.troupe("get", "agents", "clerk", "-o", "json").out
    assert json.loads(one)["kind"] == "Agent"
    assert canned.troupe("apply", "-f", "-", stdin=one).out == "unchanged\n"


def test_a_list_in_json_is_an_array(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet())
    assert [one["metadata"]["name"] for one in json.loads(canned.troupe("get", "tools", "-o", "json").out)] == [
        "calculator"
    ]
    assert json.loads(canned.troupe("get", "actors", "-o", "json").out) == []


def test_a_name_that_is_not_there_fails(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet())
    run = canned.troupe("get", "agents", "nobody")
    assert run.code == 1
    assert run.err == "error: there is no Agent/default/nobody; `troupe get agents` lists them\n"


def test_before_the_first_revision_lists_are_empty(canned: CannedFleet) -> None:
    run = canned.troupe("get", "agents")
    assert (run.code, len(run.out.splitlines())) == (0, 1)


def test_all_pages_of_revisions_are_listed(canned: CannedFleet) -> None:
    for _ in range(5):
        canned.control_plane.commit(model("default"), tool("calculator"))
    lines = canned.troupe("get", "revisions").out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["5", "4", "3", "2", "1"]
    assert [line.endswith("current") for line in lines] == [True, False, False, False, False]


def test_a_revision_goes_by_id_and_by_generation(canned: CannedFleet) -> None:
    canned.control_plane.commit(model("default"))
    canned.control_plane.commit(model("default"), tool("calculator"))
    by_number = json.loads(canned.troupe("get", "revisions", "1", "-o", "json").out)
    by_id = json.loads(canned.troupe("get", "revisions", "revision-1", "-o", "json").out)
    assert by_number == by_id
    assert by_id["revisionId"] == "revision-1"


def workers(revision: RevisionInfo) -> Iterator[WatchStatusResponse]:
    """Two in the snapshot, then one of them goes."""
    for name, state in (("b", status_pb2.HEALTH_STATE_LOST), ("a", status_pb2.HEALTH_STATE_HEALTHY)):
        report = status_pb2.StatusReport(
            worker_id=name,
            running=status_pb2.RunningRevision(generation=1),
            health=status_pb2.Health(state=state, cause="its lease is over" if name == "b" else ""),
            shards=[status_pb2.ShardStatus(shard=0, state=status_pb2.SHARD_STATE_ACTIVE)],
            load=status_pb2.Load(turns_per_second=2.5, turn_latency_p99_seconds=0.0123),
        )
        yield WatchStatusResponse(
            worker=control_plane_pb2.WorkerStatus(worker_id=name, address="127.0.0.1:7070", report=report)
        )
    yield WatchStatusResponse(synced=control_plane_pb2.Synced(current=revision))
    yield WatchStatusResponse(removed_worker_id="b")


def test_status_is_one_complete_snapshot(canned: CannedFleet) -> None:
    canned.control_plane.commit(*fleet())
    canned.control_plane.status = workers
    run = canned.troupe("status")
    headline, _, _, first, second = run.out.splitlines()
    assert headline == "revision 1 · 3 resources · 1 of 2 workers healthy"
    assert first.split() == ["a", "127.0.0.1:7070", "HEALTHY", "1", "-", "1", "0", "2.5", "12.3", "ms"]
    assert "LOST: its lease is over" in second


def test_watched_status_is_a_line_of_json_for_each_change_and_outlives_a_broken_stream(canned: CannedFleet) -> None:
    """Given a watch that breaks after two states, when it is opened again, then it goes on until Ctrl-C."""
    canned.control_plane.commit(*fleet())

    def once_more(revision: RevisionInfo) -> Iterator[WatchStatusResponse]:
        yield WatchStatusResponse(synced=control_plane_pb2.Synced(current=revision))
        until = time.monotonic() + 10
        while sys.stdout.getvalue().count("\n") < 3 and time.monotonic() < until:  # type: ignore[union-attr]
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def once(revision: RevisionInfo) -> Iterator[WatchStatusResponse]:
        canned.control_plane.status = once_more
        return workers(revision)

    canned.control_plane.status = once
    run = canned.troupe("status", "--watch", "-o", "json")
    assert (run.code, run.err) == (130, "")
    seen = [[one["workerId"] for one in json.loads(line)["workers"]] for line in run.out.splitlines()]
    assert seen == [["a", "b"], ["a"], []]


def session(name: str, **fields: object) -> agent_pb2.Session:
    return agent_pb2.Session(
        session=SessionRef(agent="clerk", session=name),
        state=agent_pb2.SESSION_STATE_IDLE,
        turns=3,
        updated_at=timestamp(time.time() - 300),
        usage=turn_pb2.Usage(prompt_tokens=40, completion_tokens=2),
        worker_id="worker-0",
        **fields,  # type: ignore[arg-type]  # fields of the message
    )


def test_sessions_are_listed_page_by_page(canned: CannedFleet) -> None:
    def page(request: agent_pb2.ListSessionsRequest) -> agent_pb2.ListSessionsResponse:
        if request.page_token:
            return agent_pb2.ListSessionsResponse(sessions=[session("s2")])
        return agent_pb2.ListSessionsResponse(sessions=[session("s1")], next_page_token="more")

    canned.worker.answers["ListSessions"] = page
    lines = canned.troupe("get", "sessions", "clerk").out.splitlines()[1:]
    assert [line.split() for line in lines] == [
        [f"clerk/{name}", "IDLE", "3", "0", "42", "5m", "worker-0", "0"] for name in ("s1", "s2")
    ]
    assert canned.worker.requests[0].parent == SessionRef(agent="clerk")


def test_a_session_is_shown_with_its_history(canned: CannedFleet) -> None:
    canned.worker.answers["GetSession"] = agent_pb2.GetSessionResponse(
        session=session("s1"),
        history=[
            agent_pb2.HistoryEntry(role="user", text="6 * 7?"),
            agent_pb2.HistoryEntry(
                role="assistant",
                tool_calls=[turn_pb2.ToolCallStarted(tool="calculator", arguments='{"expression": "6 * 7"}')],
            ),
            agent_pb2.HistoryEntry(role="tool", text="42"),
            agent_pb2.HistoryEntry(role="assistant", text="It is \x1b[31m42."),
        ],
    )
    run = canned.troupe("session", "show", "clerk/s1")
    assert run.code == 0
    assert run.out.splitlines()[-4:] == [
        "user> 6 * 7?",
        '→ calculator(expression="6 * 7")',
        "← 42",
        "It is [31m42.",
    ]
    assert canned.worker.requests[0].history == 20


def test_a_session_that_is_not_known_fails(canned: CannedFleet) -> None:
    canned.worker.answers["GetSession"] = NotFound("SESSION_UNKNOWN", "no session clerk/s9; its first message makes it")
    run = canned.troupe("session", "show", "clerk/s9")
    assert (run.code, run.err) == (1, "error: no session clerk/s9; its first message makes it\n")


def test_deleting_a_session_says_what_was_cancelled(canned: CannedFleet) -> None:
    canned.worker.answers["DeleteSession"] = agent_pb2.DeleteSessionResponse(cancelled=2)
    run = canned.troupe("session", "delete", "other/clerk/s1")
    assert run.out == "other/clerk/s1 deleted, 2 messages cancelled\n"
    assert canned.worker.requests[0].session == SessionRef(namespace="other", agent="clerk", session="s1")


def test_a_deletion_waits_as_long_as_a_turn_may_take_to_end(
    canned: CannedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(request: agent_pb2.DeleteSessionRequest) -> Unavailable:
        time.sleep(0.5)
        return Unavailable("TURN_RUNS", "the running turn of session clerk/s1 did not end; try again")

    monkeypatch.setattr(clients, "CALL_TIMEOUT", 0.1)
    canned.worker.answers["DeleteSession"] = late
    run = canned.troupe("session", "delete", "clerk/s1")
    assert (run.code, run.err) == (1, "error: the running turn of session clerk/s1 did not end; try again\n")


def test_doctor_is_content_with_a_fleet_that_answers(canned: CannedFleet) -> None:
    canned.worker.answers["ListSessions"] = agent_pb2.ListSessionsResponse()
    run = canned.troupe("doctor")
    assert run.code == 0
    assert all(line.split()[0] == "ok" for line in run.out.splitlines()[1:])


def test_doctor_fails_where_a_named_server_does_not_answer(canned: CannedFleet) -> None:
    canned.worker.answers["ListSessions"] = agent_pb2.ListSessionsResponse()
    run = canned.troupe("doctor", "--server", "127.0.0.1:1", "-o", "json")
    assert run.code == 1
    found = {one["check"]: one for one in json.loads(run.out)}
    assert found["control plane"]["verdict"] == "fail"
    assert "start a fleet with `troupe up`" in found["control plane"]["detail"]
    assert found["worker"]["verdict"] == "ok"


def test_doctor_names_what_is_wrong_with_the_model_endpoint(
    canned: CannedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    canned.worker.answers["ListSessions"] = agent_pb2.ListSessionsResponse()
    monkeypatch.setenv("TROUPE_LLM", "http://127.0.0.1:1/v1")
    without_model = canned.troupe("doctor")
    monkeypatch.setenv("TROUPE_MODEL", "llama")
    unreachable = canned.troupe("doctor")
    assert without_model.code == unreachable.code == 1
    assert "no model is named for http://127.0.0.1:1/v1" in without_model.out
    assert "http://127.0.0.1:1/v1 does not answer (" in unreachable.out


@pytest.mark.parametrize(
    ("variable", "url", "check", "verdict", "said"),
    [
        ("TROUPE_BROKER", "amqp://me:secret@127.0.0.1:1", "mailboxes", "fail", "127.0.0.1"),
        ("TROUPE_BROKER", "amqp://", "mailboxes", "fail", "it names no host"),
        ("TROUPE_BROKER", "kafka://here", "mailboxes", "fail", "names kafka://"),
        ("TROUPE_BROKER", "memory://", "mailboxes", "warn", "gone when the process ends"),
        ("TROUPE_BROKER", "sqlite:///b.db", "mailboxes", "ok", "sqlite:///b.db"),
        ("TROUPE_STATE", "redis://:secret@127.0.0.1:1", "session state", "fail", "no Redis answers at 127.0.0.1:1"),
        ("TROUPE_STATE", "postgres://here", "session state", "fail", "names postgres://"),
    ],
)
def test_doctor_looks_at_broker_and_state(
    canned: CannedFleet, monkeypatch: pytest.MonkeyPatch, variable: str, url: str, check: str, verdict: str, said: str
) -> None:
    canned.worker.answers["ListSessions"] = agent_pb2.ListSessionsResponse()
    monkeypatch.setattr("troupe.cli.checks.STORES_PATIENCE", 2.0)
    monkeypatch.setenv(variable, url)
    run = canned.troupe("doctor", "-o", "json")
    found = {one["check"]: one for one in json.loads(run.out)}
    assert (found[check]["verdict"], run.code) == (verdict, int(verdict == "fail"))
    assert said in found[check]["detail"]
    assert "secret" not in run.out
    other = ({"mailboxes", "session state"} - {check}).pop()
    assert (found[other]["verdict"], found[other]["detail"]) == ("ok", "SQLite in the data directory")
