"""`troupe promise` against a worker that says what the tests tell it to."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.canned_fleet import CannedFleet, canned_fleet

from troupe.chassis.errors import InvalidArgument, NotFound, PermissionDenied
from troupe.chassis.wire import timestamp
from troupe.v1 import promise_pb2
from troupe.v1.envelope_pb2 import Content, Data, SessionRef
from troupe.v1.promise_pb2 import (
    GetPromiseResponse,
    ListPromisesResponse,
    Promise,
    PromiseRef,
    RejectResponse,
    ResolveResponse,
)

NAME = "clerk/s1/m1/approval"
TOKEN = "tp_abc.00112233445566778899aabbccddeeff"


@pytest.fixture
def canned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[CannedFleet]:
    with canned_fleet(capsys, monkeypatch, tmp_path) as served:
        yield served


def promise(state: "promise_pb2.PromiseState.ValueType" = promise_pb2.PROMISE_STATE_OPEN, **fields: Any) -> Promise:
    return Promise(
        session=SessionRef(tenant="t", namespace="default", agent="clerk", session="s1"),
        promise_id="m1/approval",
        name="approval",
        message_id="m1",
        state=state,
        created_at=timestamp(time.time() - 300),
        **fields,
    )


RESOLVED = promise(promise_pb2.PROMISE_STATE_RESOLVED, settled_by="ann", settled_at=timestamp(time.time() - 7230))
APPLIED = ResolveResponse(answer=promise_pb2.SETTLEMENT_ANSWER_APPLIED, promise=RESOLVED)


def test_what_is_waited_for_is_listed_page_by_page(canned: CannedFleet) -> None:
    def page(request: promise_pb2.ListPromisesRequest) -> ListPromisesResponse:
        if request.page_token:
            return ListPromisesResponse(promises=[RESOLVED])
        return ListPromisesResponse(promises=[promise(expires=timestamp(time.time() + 600.5))], next_page_token="more")

    canned.promises.answers["ListPromises"] = page
    lines = canned.troupe("promise", "list", "clerk/s1", "--settled").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[NAME, "OPEN"], [NAME, "RESOLVED"]]
    # Made five minutes before this module was imported.
    assert all(re.fullmatch(r"\d+m", line.split()[2]) for line in lines[1:])
    assert lines[1].endswith("(in 10m)")
    assert canned.promises.requests[0].settled
    assert canned.promises.requests[0].parent == SessionRef(namespace="default", agent="clerk", session="s1")
    assert canned.promises.requests[1].page_token == "more"


def test_a_list_says_when_there_are_none_and_when_there_are_more(canned: CannedFleet) -> None:
    canned.promises.answers["ListPromises"] = ListPromisesResponse()
    assert canned.troupe("promise", "list").out == "no turn waits for a promise\n"
    assert canned.promises.requests[0].parent == SessionRef()
    canned.promises.answers["ListPromises"] = ListPromisesResponse(promises=[promise()], next_page_token="more")
    run = canned.troupe("promise", "list", "--limit", "1", "-o", "json")
    assert [one["promiseId"] for one in json.loads(run.out)] == ["m1/approval"]
    assert "there are more" in run.err


def test_one_is_shown_with_all_that_is_known(canned: CannedFleet) -> None:
    shown = promise(
        promise_pb2.PROMISE_STATE_RESOLVED,
        json_schema='{"type": "object"}',
        approvers=["ann", "bob"],
        value=Content(data=Data(content_type="application/json", value=b'{"ok": true}')),
        settled_by="ann",
        settled_at=timestamp(time.time()),
    )
    canned.promises.answers["GetPromise"] = GetPromiseResponse(promise=shown)
    lines = canned.troupe("promise", "show", NAME).out.splitlines()
    facts = {line[:12].strip(): line[12:] for line in lines[:-2]}
    assert facts["promise"] == NAME
    assert (facts["state"], facts["settled by"], facts["approvers"]) == ("RESOLVED", "ann", "ann, bob")
    assert facts["schema"] == '{"type": "object"}'
    assert lines[-2:] == ["", '{"ok": true}']
    assert canned.promises.requests[0].promise == PromiseRef(
        session=SessionRef(agent="clerk", session="s1"), promise_id="m1/approval"
    )


def test_resolve_gives_it_json_or_a_text(canned: CannedFleet) -> None:
    canned.promises.answers["Resolve"] = APPLIED
    run = canned.troupe("promise", "resolve", NAME, '{"ok": true}', "--settlement-id", "x")
    assert (run.code, run.out) == (0, f"{NAME} resolved\n")
    canned.troupe("promise", "resolve", NAME, "go ahead", "--text")
    canned.troupe("promise", "resolve", NAME, "-", stdin="[1,\n2]\n")
    canned.troupe("promise", "resolve", NAME, "-", "--text", stdin="two\nlines\n")
    first, text, piped, lines = canned.promises.requests
    assert first.value.data == Data(content_type="application/json", value=b'{"ok": true}')
    assert first.settlement_id == "x" != text.settlement_id != piped.settlement_id
    assert (text.value.text, lines.value.text) == ("go ahead", "two\nlines")
    assert json.loads(piped.value.data.value) == [1, 2]


def test_a_token_names_the_promise_and_stands_in_a_file_where_nobody_sees_it(canned: CannedFleet) -> None:
    canned.promises.answers |= {"Resolve": APPLIED, "Reject": RejectResponse(answer=APPLIED.answer, promise=RESOLVED)}
    file = canned.write("token", f"{TOKEN}\n")
    canned.troupe("promise", "resolve", TOKEN, "1")
    canned.troupe("promise", "reject", f"@{file}", "--reason", "too dear")
    resolve, reject = canned.promises.requests
    assert resolve.token == reject.token == TOKEN
    assert not resolve.HasField("promise")
    assert reject.reason == "too dear"


@pytest.mark.parametrize(
    ("answer", "stands", "said"),
    [
        ("DUPLICATE", RESOLVED, "is RESOLVED already by ann, 2h ago"),
        ("EXPIRED", promise(promise_pb2.PROMISE_STATE_EXPIRED), "is EXPIRED already"),
        ("WITHDRAWN", promise(promise_pb2.PROMISE_STATE_WITHDRAWN), "is WITHDRAWN already"),
    ],
)
def test_whoever_comes_second_fails(canned: CannedFleet, answer: str, stands: Promise, said: str) -> None:
    value = promise_pb2.SettlementAnswer.Value(f"SETTLEMENT_ANSWER_{answer}")
    canned.promises.answers |= {
        "Resolve": ResolveResponse(answer=value, promise=stands),
        "Reject": RejectResponse(answer=value, promise=stands),
    }
    for arguments in (("resolve", NAME, "1"), ("reject", NAME)):
        run = canned.troupe("promise", *arguments)
        assert (run.code, run.out) == (1, f"{NAME} {said}\n")
    document = json.loads(canned.troupe("promise", "resolve", NAME, "1", "-o", "json").out)
    assert document["answer"] == f"SETTLEMENT_ANSWER_{answer}"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("NOT_OF_SCHEMA", "value: $.ok is required"), 2),
        (NotFound("PROMISE_UNKNOWN", "session clerk/s1 has no promise m1/approval"), 1),
        (PermissionDenied("ROLE_MISSING", "bob may not settle promise m1/approval"), 1),
    ],
)
def test_what_the_server_refuses_is_one_sentence(canned: CannedFleet, error: Any, code: int) -> None:
    canned.promises.answers["Resolve"] = error
    run = canned.troupe("promise", "resolve", NAME, "1")
    assert (run.code, run.out, run.err) == (code, "", f"error: {error}\n")


@pytest.mark.parametrize(
    "arguments",
    [("resolve", NAME, "yes"), ("resolve", "clerk/s1", "1"), ("resolve", "@/nowhere/token", "1"), ("resolve", NAME)],
)
def test_misuse(canned: CannedFleet, arguments: tuple[str, ...]) -> None:
    run = canned.troupe("promise", *arguments)
    assert (run.code, run.out, canned.promises.requests) == (2, "", [])
    assert len(run.err.splitlines()) == 1
    assert TOKEN not in run.err


def test_what_a_token_file_holds_is_not_shown(canned: CannedFleet) -> None:
    file = canned.write("token", f"token: {TOKEN}\n")
    run = canned.troupe("promise", "resolve", f"@{file}", "1")
    assert (run.code, canned.promises.requests) == (2, [])
    assert "has no token" in run.err
    assert TOKEN not in run.err


@pytest.mark.parametrize("value", ["NaN", '{"a": [Infinity]}', "[" * 100_000])
def test_what_only_python_takes_for_json_is_none(canned: CannedFleet, value: str) -> None:
    run = canned.troupe("promise", "resolve", NAME, "-", stdin=value)
    assert (run.code, canned.promises.requests) == (2, [])
    assert "is no JSON" in run.err
