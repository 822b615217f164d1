"""`troupe chat`, `send` and `message` against a worker that says what the tests tell it to."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support.canned_fleet import CannedFleet, canned_fleet

from troupe.chassis.errors import AlreadyExists, Unavailable, Unimplemented
from troupe.chassis.wire import duration, timestamp
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import ConverseRequest, EventPosition
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.turn_pb2 import Event

LEDGER = turn_pb2.Ledger(
    wall=duration(0.1),
    rows=[turn_pb2.LedgerRow(cause=turn_pb2.LEDGER_CAUSE_TOOL, duration=duration(0.06))],
    residual=duration(0.04),
)


@pytest.fixture
def canned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[CannedFleet]:
    with canned_fleet(capsys, monkeypatch, tmp_path) as served:
        yield served


def turn(request: ConverseRequest, *kinds: Event, attempt: int = 0, start: int = 1) -> Iterator[Event]:
    """The events of one attempt, numbered."""
    for sequence, kind in enumerate(kinds, start):
        event = Event(
            session=request.message.session,
            message_id=request.message.message_id,
            epoch=1,
            attempt=attempt,
            sequence=sequence,
            time=timestamp(1000.0),
        )
        event.MergeFrom(kind)
        yield event


def token(text: str) -> Event:
    return Event(token_delta=turn_pb2.TokenDelta(text=text))


def completed(text: str, **fields: bool) -> Event:
    done = turn_pb2.Completed(result=Content(text=text), ledger=LEDGER, usage=turn_pb2.Usage(model_calls=2), **fields)
    return Event(completed=done)


CALL = Event(
    tool_call_started=turn_pb2.ToolCallStarted(call_id="c1", tool="calculator", arguments='{"expression": "6 * 7"}')
)
RESULT = Event(
    tool_call_finished=turn_pb2.ToolCallFinished(
        call_id="c1", tool="calculator", result="42", duration=duration(0.0012)
    )
)
ACCEPTED = Event(accepted=turn_pb2.Accepted())


def test_the_answer_streams_with_its_tool_calls_and_ends_with_the_ledger(canned: CannedFleet) -> None:
    canned.worker.converse = [
        lambda request: turn(request, ACCEPTED, CALL, RESULT, token("It is "), token("42."), completed("It is 42."))
    ]
    run = canned.troupe("chat", "clerk", "-s", "s1", "-m", "6 * 7?")
    assert (run.code, run.err) == (0, "")
    lines = run.out.splitlines()
    assert lines[:4] == ['→ calculator(expression="6 * 7")', "← calculator 42 (1.2 ms)", "It is 42.", ""]
    assert [line.split()[:3] for line in lines[5:8]] == [
        ["tool", "60.0", "ms"],
        ["residual", "40.0", "ms"],
        ["wall", "100.0", "ms"],
    ]
    sent = canned.worker.requests[0].message
    assert sent.session == SessionRef(agent="clerk", session="s1")
    assert sent.content.text == "6 * 7?"
    assert sent.message_id


def test_a_new_session_has_an_id_that_is_printed(canned: CannedFleet) -> None:
    canned.worker.converse = [lambda request: turn(request, completed("Hello."))]
    run = canned.troupe("chat", "other/clerk", "-m", "Hello")
    session = canned.worker.requests[0].message.session
    assert run.err == f"session other/clerk/{session.session}\n"
    assert run.out.splitlines()[0] == "Hello."


def test_a_stream_that_breaks_is_taken_up_where_it_broke(canned: CannedFleet) -> None:
    lost = Unavailable("STOPPING", "the worker stops")

    def first(request: ConverseRequest) -> Iterable[Event | Unavailable]:
        yield from turn(request, ACCEPTED, token("It "))
        yield lost

    canned.worker.converse = [first, lambda request: turn(request, token("works."), completed("It works."), start=3)]
    run = canned.troupe("chat", "clerk", "-m", "?")
    assert run.code == 0
    assert run.out.splitlines()[0] == "It works."
    before, after = canned.worker.requests
    assert not before.HasField("after")
    assert after.after == EventPosition(epoch=1, attempt=0, sequence=2)
    assert after.message.message_id == before.message.message_id


def test_a_worker_that_asks_to_be_called_again_is(canned: CannedFleet) -> None:
    starting = Unavailable("NO_PLACEMENT", "the worker has not heard from the control plane yet", retry_after=0.01)
    canned.worker.converse = [lambda _: [starting], lambda request: turn(request, completed("Here."))]
    assert canned.troupe("chat", "clerk", "-m", "?").out.splitlines()[0] == "Here."


def test_a_stream_that_stays_broken_says_how_to_ask_later(canned: CannedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.cli.conversation.RECONNECT_WITHIN", 0.3)
    lost = Unavailable("STOPPING", "the worker stops")

    def first(request: ConverseRequest) -> Iterable[Event | Unavailable]:
        yield from turn(request, ACCEPTED)
        yield lost

    canned.worker.converse = [first, lambda _: [lost], lambda _: [lost]]
    run = canned.troupe("chat", "clerk", "-s", "s1", "-m", "?")
    assert run.code == 1
    message_id = canned.worker.requests[0].message.message_id
    assert run.err.endswith(f"`troupe message wait clerk/s1/{message_id}`\n")


def test_a_sealed_attempt_is_void_and_the_next_one_starts_over(canned: CannedFleet) -> None:
    sealed = Event(
        sealed=turn_pb2.Sealed(
            error=turn_pb2.ErrorDetail(reason="MODEL_UNAVAILABLE", message="the model does not answer"),
            next_attempt=timestamp(1000.5),
        )
    )

    def both(request: ConverseRequest) -> Iterable[Event]:
        yield from turn(request, token("It is 4"), sealed)
        yield from turn(request, token("It is 42."), completed("It is 42."), attempt=1)

    canned.worker.converse = [both]
    lines = canned.troupe("chat", "clerk", "-m", "?").out.splitlines()
    assert lines[:3] == [
        "It is 4",
        "attempt 1 is void, what it showed does not count (the model does not answer); it starts over in 500 ms",
        "It is 42.",
    ]


def test_a_stored_answer_is_printed_whole(canned: CannedFleet) -> None:
    canned.worker.converse = [lambda request: turn(request, completed("It is 42.", stored=True))]
    assert canned.troupe("chat", "clerk", "-m", "?").out.splitlines()[0] == "It is 42."


def test_a_turn_that_fails_exits_1_with_the_reason(canned: CannedFleet) -> None:
    failed = turn_pb2.Failed(
        fate=turn_pb2.FATE_DEAD, error=turn_pb2.ErrorDetail(reason="MAX_STEPS", message="more than 8 model calls")
    )
    canned.worker.converse = [lambda request: turn(request, token("Hm"), Event(failed=failed))]
    run = canned.troupe("chat", "clerk", "-m", "?")
    assert run.code == 1
    assert run.out.splitlines() == ["Hm", "dead: more than 8 model calls"]


def test_a_turn_that_waits_says_for_what_and_goes_on(canned: CannedFleet) -> None:
    waits = turn_pb2.AwaitedPromise(promise_id="m1/approval", name="approval", expires=timestamp(time.time() + 600.5))
    canned.worker.converse = [
        lambda request: [
            *turn(request, token("Let me ask."), Event(suspended=turn_pb2.Suspended(promises=[waits]))),
            *turn(request, Event(started=turn_pb2.Started(continues=True)), attempt=1),
            *turn(request, Event(suspended=turn_pb2.Suspended()), attempt=1, start=2),
            *turn(request, completed("Done."), attempt=2),
        ]
    ]
    lines = canned.troupe("chat", "clerk", "-s", "s1", "-m", "?").out.splitlines()
    message_id = canned.worker.requests[0].message.message_id
    assert lines[0] == "Let me ask."
    assert lines[1].startswith("waits for promise clerk/s1/m1/approval, until 2")
    assert lines[2] == f"paused; it goes on with: troupe turns resume clerk/s1/{message_id}"
    assert lines[3] == "Done."


def test_calls_that_stand_are_shown_once_and_void_ones_again(canned: CannedFleet) -> None:
    suspended = Event(suspended=turn_pb2.Suspended())
    sealed = Event(sealed=turn_pb2.Sealed(error=turn_pb2.ErrorDetail(reason="X", message="away")))
    canned.worker.converse = [
        lambda request: [
            *turn(request, CALL, RESULT, suspended),
            *turn(request, Event(started=turn_pb2.Started(continues=True)), CALL, RESULT, sealed, attempt=1),
            *turn(request, CALL, RESULT, completed("Done."), attempt=2),
        ]
    ]
    lines = canned.troupe("chat", "clerk", "-m", "?").out.splitlines()
    assert [line.split()[0] for line in lines[:7]] == ["→", "←", "paused;", "attempt", "→", "←", "Done."]


def test_lines_from_a_pipe_are_asked_one_by_one_in_one_session(canned: CannedFleet) -> None:
    canned.worker.converse = [
        lambda request: turn(request, completed("One.")),
        lambda request: turn(request, completed("Two.")),
    ]
    run = canned.troupe("chat", "clerk", stdin="first\n\nsecond\n")
    assert run.code == 0
    assert [one.message.content.text for one in canned.worker.requests] == ["first", "second"]
    assert len({one.message.session.session for one in canned.worker.requests}) == 1


def test_json_is_one_event_per_line(canned: CannedFleet) -> None:
    canned.worker.converse = [lambda request: turn(request, token("a"), completed("a"))]
    run = canned.troupe("chat", "clerk", "-m", "?", "-o", "json")
    first, last = (json.loads(line) for line in run.out.splitlines())
    assert first["tokenDelta"] == {"text": "a"}
    assert last["completed"]["ledger"]["wall"] == "0.100s"


def test_what_a_model_says_cannot_drive_the_terminal(canned: CannedFleet) -> None:
    canned.worker.converse = [lambda request: turn(request, token("a\x1b]0;x\x07b\u202ec"), completed("abc"))]
    assert canned.troupe("chat", "clerk", "-m", "?").out.splitlines()[0] == "a]0;xbc"


def test_ctrl_c_cancels_the_turn_and_shows_its_end(canned: CannedFleet) -> None:
    """Given a turn under way, when Ctrl-C comes, then CANCEL is sent and the turn's own end is waited for."""
    cancelled = threading.Event()

    def until_cancelled(request: ConverseRequest) -> Iterable[Event]:
        yield from turn(request, token("Let me"))
        os.kill(os.getpid(), signal.SIGINT)
        assert cancelled.wait(10)
        yield from turn(request, Event(failed=turn_pb2.Failed(fate=turn_pb2.FATE_CANCELLED)), start=2)

    def cancel(request: agent_pb2.ControlTurnsRequest) -> Iterable[agent_pb2.ControlTurnsResponse]:
        cancelled.set()
        return [agent_pb2.ControlTurnsResponse(answer=agent_pb2.VERB_ANSWER_APPLIED, message=request.messages[0])]

    canned.worker.converse = [until_cancelled]
    canned.worker.answers["ControlTurns"] = cancel
    run = canned.troupe("chat", "clerk", "-m", "?")
    assert run.code == 1
    assert run.out.splitlines() == ["Let me", "cancelled"]
    asked, verb = canned.worker.requests
    assert verb.verb == agent_pb2.VERB_CANCEL
    assert verb.messages[0].message_id == asked.message.message_id
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def status(fate: "turn_pb2.Fate.ValueType", **fields: object) -> agent_pb2.MessageStatus:
    return agent_pb2.MessageStatus(
        session=SessionRef(agent="clerk", session="s1"),
        message_id="m1",
        fate=fate,
        **fields,  # type: ignore[arg-type]  # fields of the message
    )


def test_send_answers_once_the_message_is_safe(canned: CannedFleet) -> None:
    canned.worker.answers["Send"] = agent_pb2.SendResponse(message_id="m1", status=status(turn_pb2.FATE_UNSEEN))
    run = canned.troupe("send", "clerk/s1", "hello", "--message-id", "m1", "--on-busy", "enqueue")
    assert (run.code, run.out.splitlines()[0]) == (0, "accepted clerk/s1/m1")
    sent = canned.worker.requests[0]
    assert (sent.message_id, sent.content.text, sent.on_busy) == ("m1", "hello", agent_pb2.ON_BUSY_ENQUEUE)
    assert not sent.HasField("wait")


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        (("clerk/s1", "hello", "--wait"), 60),
        (("--wait", "clerk/s1", "hello"), 60),
        (("clerk/s1", "--wait", "90s", "hello"), 90),
        (("--wait=1m", "clerk/s1", "hello"), 60),
    ],
)
def test_send_waits_as_long_as_asked(canned: CannedFleet, arguments: tuple[str, ...], seconds: int) -> None:
    canned.worker.answers["Send"] = agent_pb2.SendResponse(
        message_id="m1", status=status(turn_pb2.FATE_DONE, result=Content(text="42"), ledger=LEDGER)
    )
    run = canned.troupe("send", *arguments)
    assert run.code == 0
    assert canned.worker.requests[0].wait.seconds == seconds
    assert run.out.splitlines()[:3] == ["clerk/s1/m1 DONE", "", "42"]


@pytest.mark.parametrize(
    ("arguments", "ahead"), [(("--in", "10m"), 600), (("--in", "2d"), 172_800), (("--in", "1h30m"), 5400)]
)
def test_send_for_later(canned: CannedFleet, arguments: tuple[str, ...], ahead: int) -> None:
    canned.worker.answers["Send"] = agent_pb2.SendResponse(message_id="m1", status=status(turn_pb2.FATE_UNSEEN))
    run = canned.troupe("send", "clerk/s1", "hello", *arguments, "--on-busy", "reject", "-a", "team=shop", "-a", "n=1")
    sent = canned.worker.requests[0]
    assert sent.deliver_after.seconds == ahead
    assert (sent.on_busy, dict(sent.attributes)) == (agent_pb2.ON_BUSY_REJECT, {"team": "shop", "n": "1"})
    assert run.code == 0
    assert run.out.startswith(f"accepted clerk/s1/m1, for {utc(time.time() + ahead)[:-4]}")


def test_send_at_a_time(canned: CannedFleet) -> None:
    canned.worker.answers["Send"] = agent_pb2.SendResponse(message_id="m1", status=status(turn_pb2.FATE_UNSEEN))
    run = canned.troupe("send", "clerk/s1", "hello", "--at", "2100-01-01T00:00:00Z")
    assert canned.worker.requests[0].deliver_at.seconds == 4_102_444_800
    assert run.out.splitlines()[0].startswith("accepted clerk/s1/m1, for 2100-01-01T00:00:00Z (in ")


@pytest.mark.parametrize(
    "arguments", [("--in", "soon"), ("--at", "tomorrow"), ("-a", "team"), ("-a", "a=1", "-a", "a=2")]
)
def test_what_is_no_time_and_no_attribute_is_misuse(canned: CannedFleet, arguments: tuple[str, ...]) -> None:
    run = canned.troupe("send", "clerk/s1", "hello", *arguments)
    assert (run.code, run.out) == (2, "")
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--in", "5s", "--at", "2100-01-01T00:00"), "--in and --at: a message has one time; leave one of them out"),
        (
            ("--on-busy", "reject"),
            "--on-busy reject: somebody must hear of it; add --wait, or a time with --in or --at",
        ),
        (("--on-busy", "later"), "'--on-busy': 'later' is not one of 'enqueue', 'reject'"),
    ],
)
def test_misuse_is_said_in_the_words_of_the_command(canned: CannedFleet, arguments: tuple[str, ...], says: str) -> None:
    run = canned.troupe("send", "clerk/s1", "hello", *arguments)
    assert (run.code, run.err) == (2, f"error: Invalid value for {says}; see `troupe send --help`\n")


def test_send_takes_its_text_from_stdin(canned: CannedFleet) -> None:
    canned.worker.answers["Send"] = agent_pb2.SendResponse(message_id="m1")
    canned.troupe("send", "clerk/s1", "-", stdin="two\nlines\n")
    assert canned.worker.requests[0].content.text == "two\nlines"


@pytest.mark.parametrize("fate", [turn_pb2.FATE_DEAD, turn_pb2.FATE_RUNNING])
def test_send_fails_where_there_is_no_answer_in_time(canned: CannedFleet, fate: "turn_pb2.Fate.ValueType") -> None:
    canned.worker.answers["Send"] = agent_pb2.SendResponse(message_id="m1", status=status(fate))
    run = canned.troupe("send", "clerk/s1", "hello", "--wait")
    assert run.code == 1
    assert run.out.startswith(f"clerk/s1/m1 {turn_pb2.Fate.Name(fate).removeprefix('FATE_')}")


def test_what_the_server_has_not_built_is_its_own_sentence(canned: CannedFleet) -> None:
    canned.worker.answers["Send"] = Unimplemented("ON_BUSY", "on_busy REJECT is not built yet; leave it out")
    run = canned.troupe("send", "clerk/s1", "hello", "--on-busy", "reject", "--wait")
    assert (run.code, run.err) == (1, "error: on_busy REJECT is not built yet; leave it out\n")


def test_an_id_with_another_payload_fails(canned: CannedFleet) -> None:
    canned.worker.answers["Send"] = AlreadyExists("OTHER_PAYLOAD", "m1 was sent with other content; use a new id")
    assert canned.troupe("send", "clerk/s1", "hello", "--message-id", "m1").code == 1


def test_a_name_that_is_no_session_is_misuse(canned: CannedFleet) -> None:
    run = canned.troupe("send", "clerk", "hello")
    assert (run.code, run.err) == (2, "error: 'clerk' is no session; write AGENT/SESSION, for example clerk/s1\n")


def test_message_show_says_where_it_stands(canned: CannedFleet) -> None:
    canned.worker.answers["GetMessage"] = agent_pb2.GetMessageResponse(
        status=status(
            turn_pb2.FATE_DEAD, attempts=4, error=turn_pb2.ErrorDetail(reason="MAX_STEPS", message="too many")
        )
    )
    run = canned.troupe("message", "show", "clerk/s1/m1")
    assert (run.code, run.out) == (0, "clerk/s1/m1 DEAD after 4 attempts\nMAX_STEPS: too many\n")


def test_message_show_says_what_has_to_come_before_it_goes_on(canned: CannedFleet) -> None:
    due = time.time() + 600.5
    for at, lines in (
        (
            status(turn_pb2.FATE_SCHEDULED, due=timestamp(due)),
            [f"clerk/s1/m1 SCHEDULED for {utc(due)} (in 10m); not settled yet"],
        ),
        (
            status(turn_pb2.FATE_PAUSED, attempts=3, failures=1),
            [
                "clerk/s1/m1 PAUSED after 3 attempts, 1 of them failed; not settled yet",
                "it goes on with: troupe turns resume clerk/s1/m1",
            ],
        ),
        (
            status(turn_pb2.FATE_WAITING, attempts=1, awaits=["m1/approval", "restarted/payment"]),
            [
                "clerk/s1/m1 WAITING; not settled yet",
                "it waits for promise clerk/s1/m1/approval",
                "it waits for promise clerk/s1/restarted/payment",
            ],
        ),
    ):
        canned.worker.answers["GetMessage"] = agent_pb2.GetMessageResponse(status=at)
        run = canned.troupe("message", "show", "clerk/s1/m1")
        assert (run.code, run.out.splitlines()) == (0, lines)


def utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def test_message_wait_waits_and_fails_without_an_answer(canned: CannedFleet) -> None:
    canned.worker.answers["GetMessage"] = agent_pb2.GetMessageResponse(status=status(turn_pb2.FATE_RUNNING))
    run = canned.troupe("message", "wait", "clerk/s1/m1", "--timeout", "2s")
    assert (run.code, run.out) == (1, "clerk/s1/m1 RUNNING; not settled yet\n")
    assert canned.worker.requests[0].wait.seconds == 2
