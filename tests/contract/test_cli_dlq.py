"""`troupe dlq` against a canned worker."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.canned_fleet import CannedFleet, canned_fleet

from troupe.chassis.errors import NotFound, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import seconds, timestamp
from troupe.v1 import dead_letter_pb2 as pb
from troupe.v1.dead_letter_pb2 import (
    DeadLetter,
    DeadLetterFilter,
    GetDeadLetterResponse,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    PurgeRequest,
    PurgeResponse,
    RedriveResponse,
)
from troupe.v1.envelope_pb2 import Content, Data, Death, SessionRef

FIRST, SECOND = uuid7(), uuid7()
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def canned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[CannedFleet]:
    with canned_fleet(capsys, monkeypatch, tmp_path) as served:
        yield served


def letter(letter_id: str = FIRST, error: str = "the model answered 500", **parts: Any) -> DeadLetter:
    now = time.time()
    return DeadLetter(
        letter_id=letter_id,
        pool="agents",
        session=SessionRef(tenant="default", namespace="default", agent="clerk", session="ada"),
        message_id="broken",
        death=Death(
            reason="MODEL_ERROR",
            error=error,
            attempts=4,
            first_failed=timestamp(now - 305),
            last_failed=timestamp(now - 300),
            worker_id="worker-0",
            revision_id="revision-1",
            trace_id=TRACE,
        ),
        first_sent=timestamp(now - 310),
        size=120,
        **parts,
    )


UNREADABLE = DeadLetter(letter_id=SECOND, pool="agents", death=Death(reason="UNDECODABLE", error="no envelope"), size=5)


def test_letters_are_listed_with_why_they_died(canned: CannedFleet) -> None:
    canned.letters.answers["ListDeadLetters"] = ListDeadLettersResponse(
        letters=[letter(error="line one\nline \x1b[31mtwo"), UNREADABLE]
    )
    run = canned.troupe("dlq", "list")
    assert run.code == 0
    assert [line.split(None, 5) for line in run.out.splitlines()] == [
        ["LETTER", "SESSION", "REASON", "ATTEMPTS", "AGE", "ERROR"],
        [FIRST, "clerk/ada", "MODEL_ERROR", "4", "5m", "line one line [31mtwo"],
        [SECOND, "-", "UNDECODABLE", "0", "-", "no envelope"],
    ]


def test_all_pages_are_listed(canned: CannedFleet) -> None:
    def page(request: ListDeadLettersRequest) -> ListDeadLettersResponse:
        if request.page_token:
            return ListDeadLettersResponse(letters=[letter(SECOND)])
        return ListDeadLettersResponse(letters=[letter(FIRST)], next_page_token=FIRST)

    canned.letters.answers["ListDeadLetters"] = page
    listed = json.loads(canned.troupe("dlq", "list", "-o", "json").out)
    assert [one["letterId"] for one in listed] == [FIRST, SECOND]
    assert listed[0]["death"]["traceId"] == TRACE
    assert canned.letters.requests[1].page_token == FIRST


def test_a_list_is_bounded_and_says_where_it_ends(canned: CannedFleet) -> None:
    canned.letters.answers["ListDeadLetters"] = ListDeadLettersResponse(letters=[letter()], next_page_token=FIRST)
    run = canned.troupe("dlq", "list", "--limit", "1", "-o", "json")
    assert (run.code, len(json.loads(run.out))) == (0, 1)
    assert run.err == "these are the oldest 1, there are more; narrow the list, or ask for them with --limit\n"
    canned.troupe("dlq", "list", "--limit", "3")
    assert [one.page_size for one in canned.letters.requests] == [1, 3, 2, 1]


def test_where_there_are_none_a_sentence_says_so(canned: CannedFleet) -> None:
    canned.letters.answers["ListDeadLetters"] = ListDeadLettersResponse()
    assert canned.troupe("dlq", "list").out == "pool agents has no dead letters: no message was given up\n"
    assert canned.troupe("dlq", "list", "--reason", "X").out == "no dead letter of pool agents matches\n"
    assert json.loads(canned.troupe("dlq", "list", "-o", "json").out) == []


def asked(canned: CannedFleet, *arguments: str) -> DeadLetterFilter:
    """The filter that the worker is sent."""
    canned.letters.answers["ListDeadLetters"] = ListDeadLettersResponse()
    run = canned.troupe("dlq", "list", *arguments)
    assert run.code == 0, run.err
    sent: DeadLetterFilter = canned.letters.requests[-1].filter
    return sent


def test_filters_reach_the_worker(canned: CannedFleet) -> None:
    assert asked(canned) == DeadLetterFilter()
    assert list(asked(canned, "--reason", "A", "--reason", "B").reasons) == ["A", "B"]
    assert asked(canned, "-s", "clerk").session == SessionRef(namespace="default", agent="clerk")
    assert asked(canned, "-s", "clerk/ada").session == SessionRef(namespace="default", agent="clerk", session="ada")
    assert asked(canned, "-s", "clerk", "-n", "shop").session == SessionRef(namespace="shop", agent="clerk")
    assert asked(canned, "-n", "shop").session == SessionRef(namespace="shop")
    assert seconds(asked(canned, "--since", "1h30m").since) == pytest.approx(time.time() - 5400, abs=10)
    assert seconds(asked(canned, "--before", "2d").before) == pytest.approx(time.time() - 172_800, abs=10)
    assert asked(canned, "--since", "2026-11-26T08:30:00Z").since == timestamp(1_795_681_800)
    assert canned.letters.requests[-1].pool == "agents"
    asked(canned, "encoders")
    assert canned.letters.requests[-1].pool == "encoders"


@pytest.mark.parametrize(
    "arguments", [["--since", "yesterday"], ["--before", "12-26"], ["--session", "a/b/c/d"], ["--since", ""]]
)
def test_what_is_no_filter_is_misuse(canned: CannedFleet, arguments: list[str]) -> None:
    canned.letters.answers["ListDeadLetters"] = ListDeadLettersResponse()
    run = canned.troupe("dlq", "list", *arguments)
    assert (run.code, len(run.err.splitlines())) == (2, 1)


def test_one_letter_is_shown_with_all_that_is_known(canned: CannedFleet) -> None:
    earlier = Death(reason="MODEL_TIMEOUT", error="no answer", attempts=2, last_failed=timestamp(1.0), worker_id="w-1")
    source = SessionRef(namespace="default", agent="boss", session="b")
    shown = letter(redrives=1, earlier=[earlier], source=source)
    canned.letters.answers["GetDeadLetter"] = GetDeadLetterResponse(
        letter=shown, content=Content(text="Hi \x1b[2Jthere")
    )
    run = canned.troupe("dlq", "show", FIRST)
    assert run.code == 0, run.err
    facts, _, said = run.out.partition("\n\n")
    assert said == "Hi [2Jthere\n"
    lines = dict(re_split(line) for line in facts.splitlines())
    assert lines == {
        "letter": FIRST,
        "pool": "agents",
        "message": "clerk/ada/broken",
        "reason": "MODEL_ERROR",
        "error": "the model answered 500",
        "attempts": "4",
        "first failed": lines["first failed"],
        "given up": lines["given up"],
        "worker": "worker-0",
        "revision": "revision-1",
        "trace": TRACE,
        "sent": lines["sent"],
        "sent by": "boss/b",
        "redriven": "1 time",
        "earlier": lines["earlier"],
        "size": "120 bytes",
    }
    assert lines["given up"].endswith("Z (5m ago)")
    assert lines["earlier"].startswith("1970-01-01T00:00:01Z (")
    assert lines["earlier"].endswith(" on w-1 after 2 attempts: MODEL_TIMEOUT: no answer")
    assert canned.letters.requests[-1].letter_id == FIRST


def re_split(line: str) -> tuple[str, str]:
    title, _, value = line.partition("   ")
    return title.strip(), value.strip()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Data(content_type="application/json", value=b'{"n": 1}'), ["application/json, 8 bytes:", '{"n": 1}']),
        (
            Data(content_type="image/png", value=b"\x89PNG\r\n" + bytes(90)),
            [
                "image/png, 96 bytes:",
                "0000  89 50 4e 47 0d 0a 00 00 00 00 00 00 00 00 00 00  .PNG............",
                *(f"00{place}0  {'00 ' * 16} {'.' * 16}" for place in "123"),
                "… 32 more bytes; -o json has them",
            ],
        ),
        (
            Data(content_type="text/plain", value=b"\xff\xfe"),
            ["text/plain, 2 bytes:", f"0000  {'ff fe':<47}  .."],
        ),
    ],
)
def test_data_is_shown_as_text_or_by_its_first_bytes(canned: CannedFleet, content: Data, said: list[str]) -> None:
    canned.letters.answers["GetDeadLetter"] = GetDeadLetterResponse(letter=letter(), content=Content(data=content))
    assert canned.troupe("dlq", "show", FIRST).out.partition("\n\n")[2].splitlines() == said


def test_a_body_that_could_not_be_decoded_is_shown_by_its_first_bytes(canned: CannedFleet) -> None:
    canned.letters.answers["GetDeadLetter"] = GetDeadLetterResponse(letter=UNREADABLE, body=b"\x00hello")
    run = canned.troupe("dlq", "show", SECOND)
    assert "0000  00 68 65 6c 6c 6f" in run.out
    assert "could not be decoded" in run.out
    assert yaml.safe_load(canned.troupe("dlq", "show", SECOND, "-o", "yaml").out)["body"] == "AGhlbGxv"


def test_a_letter_that_is_not_there_fails(canned: CannedFleet) -> None:
    canned.letters.answers["GetDeadLetter"] = NotFound("LETTER_UNKNOWN", f"no dead letter {FIRST} in pool agents")
    run = canned.troupe("dlq", "show", FIRST)
    assert (run.code, run.err) == (1, f"error: no dead letter {FIRST} in pool agents\n")


def result(letter_id: str, outcome: str, detail: str = "") -> RedriveResponse:
    value = pb.RedriveOutcome.Value(f"REDRIVE_OUTCOME_{outcome}")
    return RedriveResponse(letter=letter(letter_id), outcome=value, detail=detail)


def test_redriving_says_what_became_of_each(canned: CannedFleet) -> None:
    canned.letters.answers["Redrive"] = [result(FIRST, "REDRIVEN"), result(SECOND, "OBSOLETE", "it ended DONE since")]
    run = canned.troupe("dlq", "redrive")
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines() == [
        f"REDRIVEN    {FIRST} clerk/ada/broken",
        f"OBSOLETE    {SECOND} clerk/ada/broken: it ended DONE since",
        "1 redriven, 1 obsolete",
    ]


@pytest.mark.parametrize("outcome", ["NOT_SETTLED", "UNDECODABLE", "NOT_COMPENSATED"])
def test_redriving_fails_where_a_letter_stays(canned: CannedFleet, outcome: str) -> None:
    canned.letters.answers["Redrive"] = [result(FIRST, "REDRIVEN"), result(SECOND, outcome, "because")]
    run = canned.troupe("dlq", "redrive")
    assert (run.code, run.err) == (1, "")
    assert run.out.splitlines()[-1] == f"1 redriven, 1 {outcome.replace('_', ' ').lower()}"


def test_redriving_in_json_is_a_line_for_each_letter(canned: CannedFleet) -> None:
    canned.letters.answers["Redrive"] = [result(FIRST, "REDRIVEN"), result(SECOND, "REDRIVEN")]
    lines = canned.troupe("dlq", "redrive", "-o", "json").out.splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["REDRIVE_OUTCOME_REDRIVEN"] * 2


def test_what_to_redrive_reaches_the_worker(canned: CannedFleet) -> None:
    canned.letters.answers["Redrive"] = []
    canned.troupe("dlq", "redrive", "encoders", "--limit", "5", "--rate", "2.5", "--dry-run", "--reason", "A")
    assert canned.letters.requests[-1] == pb.RedriveRequest(
        pool="encoders", filter=DeadLetterFilter(reasons=["A"]), limit=5, rate=2.5, dry_run=True
    )
    for arguments, pool in (([FIRST, SECOND], "agents"), (["encoders", FIRST, SECOND], "encoders")):
        canned.troupe("dlq", "redrive", *arguments)
        assert canned.letters.requests[-1].pool == pool
        assert list(canned.letters.requests[-1].filter.letter_ids) == [FIRST, SECOND]


def test_a_dry_run_says_that_it_is_one(canned: CannedFleet) -> None:
    canned.letters.answers["Redrive"] = [result(FIRST, "REDRIVEN")]
    assert canned.troupe("dlq", "redrive", "--dry-run").out.splitlines()[-1] == (
        "dry run, nothing was changed: 1 redriven"
    )


def test_redriving_nothing_is_a_sentence(canned: CannedFleet) -> None:
    canned.letters.answers["Redrive"] = []
    run = canned.troupe("dlq", "redrive")
    assert (run.code, run.out) == (0, "pool agents has no dead letters: no message was given up\n")


def test_a_letter_that_was_named_and_is_not_there_fails(canned: CannedFleet) -> None:
    canned.letters.answers["Redrive"] = [result(FIRST, "REDRIVEN")]
    canned.letters.answers["Purge"] = []
    run = canned.troupe("dlq", "redrive", FIRST, SECOND)
    assert run.code == 1
    assert run.err == f"error: there is no dead letter {SECOND} in pool agents; `troupe dlq list agents` lists them\n"
    assert canned.troupe("dlq", "purge", SECOND).code == 1


def test_redriving_that_breaks_off_says_what_was_done_and_why_it_ended(canned: CannedFleet) -> None:
    canned.letters.answers["Redrive"] = [result(FIRST, "REDRIVEN"), Unavailable("BROKER_DOWN", "the broker is away")]
    run = canned.troupe("dlq", "redrive")
    assert (run.code, run.err) == (1, "error: the broker is away\n")
    assert run.out.startswith(f"REDRIVEN    {FIRST}")


def test_purging_says_what_went(canned: CannedFleet) -> None:
    canned.letters.answers["Purge"] = [PurgeResponse(letter=letter(FIRST)), PurgeResponse(letter=UNREADABLE)]
    run = canned.troupe("dlq", "purge", "--all", "--limit", "7")
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines() == [f"PURGED      {FIRST} clerk/ada/broken", f"PURGED      {SECOND} -", "2 purged"]
    assert canned.letters.requests == [PurgeRequest(pool="agents", filter=DeadLetterFilter(), all=True, limit=7)]
    lines = canned.troupe("dlq", "purge", "--all", "-o", "json").out.splitlines()
    assert [json.loads(line)["letter"]["letterId"] for line in lines] == [FIRST, SECOND]


@pytest.mark.parametrize("arguments", [[], ["--all", "--reason", "X"], ["--all", FIRST], ["--dry-run"]])
def test_purging_needs_to_be_told_what(canned: CannedFleet, arguments: list[str]) -> None:
    run = canned.troupe("dlq", "purge", *arguments)
    assert (run.code, len(run.err.splitlines())) == (2, 1)
    assert "--all" in run.err
    assert not canned.letters.requests


@pytest.mark.parametrize(("answer", "code", "purges"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0), ("", 1, 0)])
def test_at_a_terminal_purging_asks_first(canned: CannedFleet, answer: str, code: int, purges: int) -> None:
    canned.letters.answers["Purge"] = [PurgeResponse(letter=letter(FIRST)), PurgeResponse(letter=letter(SECOND))]
    run = canned.troupe("dlq", "purge", "--reason", "X", stdin=answer, terminal=True)
    assert run.code == code
    assert "Drop 2 messages of pool agents for good? [y/N]" in run.err
    done = [one for one in canned.letters.requests if not one.dry_run]
    assert [one.limit for one in done] == [2] * purges, "not more than was agreed to"


def test_at_a_terminal_purging_does_not_ask_where_it_was_told_not_to_or_there_is_nothing(canned: CannedFleet) -> None:
    canned.letters.answers["Purge"] = [PurgeResponse(letter=letter(FIRST))]
    for option in ("--yes", "-y", "--dry-run"):
        assert "[y/N]" not in canned.troupe("dlq", "purge", "--all", option, terminal=True).err
    canned.letters.answers["Purge"] = []
    run = canned.troupe("dlq", "purge", "--all", terminal=True)
    assert (run.code, run.err, run.out) == (0, "", "pool agents has no dead letters: no message was given up\n")


def test_help_names_the_four(canned: CannedFleet) -> None:
    assert "dlq" in canned.troupe("--help").out
    said = canned.troupe("dlq").out
    assert all(name in said for name in ("list", "show", "redrive", "purge"))
