"""`troupe turns` against a worker that says what the tests tell it to."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from support.canned_fleet import CannedFleet, canned_fleet

from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import ControlTurnsRequest, ControlTurnsResponse, JournaledCall, MessageRef, VerbAnswer
from troupe.v1.envelope_pb2 import SessionRef


@pytest.fixture
def canned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[CannedFleet]:
    with canned_fleet(capsys, monkeypatch, tmp_path) as served:
        yield served


def answering(*words: str) -> Callable[[ControlTurnsRequest], Iterable[ControlTurnsResponse]]:
    """These answers, for the messages of the request, or, by selector, for m1, m2 …"""

    def answers(request: ControlTurnsRequest) -> Iterable[ControlTurnsResponse]:
        session = SessionRef(namespace="default", agent="clerk", session="s1")
        refs = request.messages or [
            MessageRef(session=session, message_id=f"m{one}") for one in range(1, len(words) + 1)
        ]
        for ref, word in zip(refs, words, strict=True):
            answer = VerbAnswer.Value(f"VERB_ANSWER_{word}")
            yield ControlTurnsResponse(message=ref, answer=answer, verb_id=request.verb_id)

    return answers


@pytest.mark.parametrize("verb", ["cancel", "kill", "pause", "resume"])
def test_each_verb_answers_for_each_message(canned: CannedFleet, verb: str) -> None:
    canned.worker.answers["ControlTurns"] = answering("APPLIED", "PENDING")
    run = canned.troupe("turns", verb, "clerk/s1/m1", "other/clerk/s1/m2", "--verb-id", "v")
    assert run.code == 0
    assert [line.split(maxsplit=2) for line in run.out.splitlines()[1:]] == [
        ["clerk/s1/m1", "APPLIED"],
        ["other/clerk/s1/m2", "PENDING", "on its way, or in its first step; it binds all the same"],
    ]
    (request,) = canned.worker.requests
    assert (request.verb, request.verb_id) == (agent_pb2.Verb.Value(f"VERB_{verb.upper()}"), "v")
    assert not request.HasField("selector")
    assert run.err == ("this pause alone is lifted with --lifts v\n" if verb == "pause" else "")


@pytest.mark.parametrize("word", ["TOO_LATE", "STALE", "NOT_FOUND"])
def test_one_that_does_not_bind_fails(canned: CannedFleet, word: str) -> None:
    canned.worker.answers["ControlTurns"] = answering("APPLIED", word)
    run = canned.troupe("turns", "cancel", "clerk/s1/m1", "clerk/s1/m2", "--dry-run")
    assert run.code == 1
    assert run.out.splitlines()[2].split()[:2] == ["clerk/s1/m2", word]
    assert canned.worker.requests[0].dry_run


def test_restart_names_the_first_step_and_says_what_goes_on(canned: CannedFleet) -> None:
    def answers(request: ControlTurnsRequest) -> Iterable[ControlTurnsResponse]:
        response = ControlTurnsResponse(message=request.messages[0], answer=agent_pb2.VERB_ANSWER_APPLIED)
        response.restarted_as = "restart-1"
        for calls in ([("search", True, True), ("look", True, False)], [("buy", False, False)]):
            step = response.steps.add()
            step.calls.extend(JournaledCall(tool=tool, started=began, ended=ended) for tool, began, ended in calls)
        yield response

    canned.worker.answers["ControlTurns"] = answers
    run = canned.troupe("turns", "restart", "clerk/s1/m1", "--from", "1")
    assert run.code == 0
    assert run.out.splitlines()[1].split(maxsplit=2) == ["clerk/s1/m1", "APPLIED", "restart-1 goes on"]
    assert canned.worker.requests[0].from_step == 1
    run = canned.troupe("turns", "restart", "clerk/s1/m1", "--from", "1", "--dry-run")
    assert [" ".join(line.split()) for line in run.out.splitlines()[3:]] == [
        "0 search ended kept",
        "look outcome unknown kept",
        "1 buy not started again",
    ]


def test_restart_needs_a_step_and_means_what_is_paused(canned: CannedFleet) -> None:
    canned.worker.answers["ControlTurns"] = answering("NOT_AT_REST")
    run = canned.troupe("turns", "restart", "clerk/s1/m1")
    assert (run.code, "--from" in run.err) == (2, True)
    run = canned.troupe("turns", "restart", "--agent", "clerk", "--from", "0")
    assert canned.worker.requests[0].selector.fates == [turn_pb2.FATE_PAUSED]
    assert canned.worker.requests[0].HasField("from_step")
    assert "pause it, and try again" in run.out


def test_each_call_has_a_verb_id_of_its_own(canned: CannedFleet) -> None:
    canned.worker.answers["ControlTurns"] = answering("APPLIED")
    for _ in range(2):
        canned.troupe("turns", "pause", "clerk/s1/m1")
    first, second = canned.worker.requests
    assert first.verb_id != second.verb_id != ""


def test_resume_names_the_pause_that_it_lifts(canned: CannedFleet) -> None:
    canned.worker.answers["ControlTurns"] = answering("APPLIED")
    canned.troupe("turns", "resume", "clerk/s1/m1", "--lifts", "v1")
    assert canned.worker.requests[0].lifts == "v1"


def test_options_name_messages_by_what_they_have_in_common(canned: CannedFleet) -> None:
    canned.worker.answers["ControlTurns"] = answering("APPLIED", "TOO_LATE", "APPLIED")
    options = "--agent clerk --session s1 --state running --state paused -a team=shop --attribute tier=gold --limit 5"
    run = canned.troupe("turns", "pause", *options.split())
    (request,) = canned.worker.requests
    assert request.selector == agent_pb2.TurnSelector(
        session=SessionRef(namespace="default", agent="clerk", session="s1"),
        fates=[turn_pb2.FATE_RUNNING, turn_pb2.FATE_PAUSED],
        attributes={"team": "shop", "tier": "gold"},
    )
    assert (request.limit, len(request.messages)) == (5, 0)
    assert run.code == 0, "what was settled meanwhile is no failure"
    assert run.out.splitlines() == [
        "APPLIED   clerk/s1/m1",
        "TOO_LATE  clerk/s1/m2: settled before",
        "APPLIED   clerk/s1/m3",
        "2 applied, 1 too late",
    ]


@pytest.mark.parametrize(
    ("arguments", "session"),
    [
        (("--all",), SessionRef()),
        (("--all", "-n", "other"), SessionRef(namespace="other")),
        (("--agent", "other/clerk"), SessionRef(namespace="other", agent="clerk")),
        (("--agent", "clerk", "-n", "other"), SessionRef(namespace="other", agent="clerk")),
        (("--agent", "clerk", "-s", "s9"), SessionRef(namespace="default", agent="clerk", session="s9")),
        (("--session", "s1"), SessionRef(session="s1")),
    ],
)
def test_whose_messages(canned: CannedFleet, arguments: tuple[str, ...], session: SessionRef) -> None:
    canned.worker.answers["ControlTurns"] = answering()
    run = canned.troupe("turns", "pause", *arguments)
    assert canned.worker.requests[0].selector.session == session
    assert (run.code, run.out, run.err) == (0, "no message matches\n", "")


def test_resume_means_those_that_are_paused_unless_it_says(canned: CannedFleet) -> None:
    canned.worker.answers["ControlTurns"] = answering()
    canned.troupe("turns", "resume", "--agent", "clerk")
    canned.troupe("turns", "resume", "--agent", "clerk", "--state", "scheduled")
    assert [list(one.selector.fates) for one in canned.worker.requests] == [
        [turn_pb2.FATE_PAUSED],
        [turn_pb2.FATE_SCHEDULED],
    ]


def test_json_is_an_array_by_name_and_a_line_each_by_selector(canned: CannedFleet) -> None:
    canned.worker.answers["ControlTurns"] = answering("APPLIED", "PENDING")
    named = canned.troupe("turns", "kill", "clerk/s1/m1", "clerk/s1/m2", "-o", "json")
    assert [one["answer"] for one in json.loads(named.out)] == ["VERB_ANSWER_APPLIED", "VERB_ANSWER_PENDING"]
    selected = canned.troupe("turns", "kill", "--all", "-o", "json")
    first, second = (json.loads(line) for line in selected.out.splitlines())
    assert (first["message"]["messageId"], second["answer"]) == ("m1", "VERB_ANSWER_PENDING")


def test_a_full_limit_says_that_there_may_be_more(canned: CannedFleet) -> None:
    canned.worker.answers["ControlTurns"] = answering("APPLIED", "APPLIED")
    assert "there may be more" in canned.troupe("turns", "pause", "--all", "--limit", "2").err
    assert "there may be more" not in canned.troupe("turns", "pause", "--all", "--limit", "3").err


@pytest.mark.parametrize("verb", ["cancel", "kill"])
def test_a_person_is_asked_before_many_are_stopped(canned: CannedFleet, verb: str) -> None:
    canned.worker.answers["ControlTurns"] = answering("APPLIED", "APPLIED")
    refused = canned.troupe("turns", verb, "--agent", "clerk", stdin="\n", terminal=True)
    assert refused.code == 1
    assert refused.err == f"{verb.capitalize()} 2 messages? [y/N] nothing was changed\n"
    assert [one.dry_run for one in canned.worker.requests] == [True]
    agreed = canned.troupe("turns", verb, "--agent", "clerk", stdin="y\n", terminal=True)
    assert (agreed.code, agreed.out.splitlines()[-1]) == (0, "2 applied")
    assert "there may be more" not in agreed.err, "all of them were counted"
    assert (canned.worker.requests[-1].dry_run, canned.worker.requests[-1].limit) == (False, 2)
    count = len(canned.worker.requests)
    canned.troupe("turns", verb, "--agent", "clerk", "--yes", terminal=True)
    canned.troupe("turns", verb, "clerk/s1/m1", "clerk/s1/m2", terminal=True)
    assert len(canned.worker.requests) == count + 2, "nobody was asked"


def test_where_there_was_nothing_to_agree_to_nothing_is_stopped(canned: CannedFleet) -> None:
    """Nor what comes after they were counted."""
    canned.worker.answers["ControlTurns"] = lambda request: answering(*[] if request.dry_run else ["APPLIED"])(request)
    run = canned.troupe("turns", "kill", "--agent", "clerk", terminal=True)
    assert [one.dry_run for one in canned.worker.requests] == [True]
    assert (run.code, run.out) == (0, "no message matches\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("clerk/s1/m1", "--all"),
        ("clerk/s1/m1", "--agent", "clerk"),
        ("clerk/s1",),
        ("--state", "done"),
        ("--agent", "a/b/c/d"),
        ("--attribute", "team"),
        ("--all", "--limit", "0"),
        ("--all", "--limit", "10001"),
    ],
)
def test_misuse(canned: CannedFleet, arguments: tuple[str, ...]) -> None:
    run = canned.troupe("turns", "pause", *arguments)
    assert (run.code, run.out, canned.worker.requests) == (2, "", [])
    assert len(run.err.splitlines()) == 1
