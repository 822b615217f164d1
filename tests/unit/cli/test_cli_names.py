"""Names and durations as people type them."""

import re

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis.errors import InvalidArgument
from troupe.chassis.wire import duration
from troupe.cli import durations, names
from troupe.cli.send import with_durations
from troupe.v1.agent_pb2 import MessageRef
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.promise_pb2 import PromiseRef


@pytest.mark.parametrize(
    ("text", "namespace", "expected"),
    [
        ("clerk/s1", None, SessionRef(agent="clerk", session="s1")),
        ("clerk/s1", "other", SessionRef(namespace="other", agent="clerk", session="s1")),
        ("other/clerk/s1", None, SessionRef(namespace="other", agent="clerk", session="s1")),
        ("other/clerk/s1", "other", SessionRef(namespace="other", agent="clerk", session="s1")),
    ],
)
def test_sessions(text: str, namespace: str | None, expected: SessionRef) -> None:
    assert names.session(text, namespace) == expected


@pytest.mark.parametrize("text", ["clerk", "clerk/", "/s1", "a/b/c/d", ""])
def test_what_is_no_session_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write AGENT/SESSION"):
        names.session(text, None)


def test_a_session_of_one_namespace_is_not_looked_for_in_another() -> None:
    with pytest.raises(InvalidArgument):
        names.session("other/clerk/s1", "default")


@pytest.mark.parametrize(
    ("text", "namespace", "expected"),
    [
        ("clerk/s1/m1", None, MessageRef(session=SessionRef(agent="clerk", session="s1"), message_id="m1")),
        (
            "other/clerk/s1/m1",
            None,
            MessageRef(session=SessionRef(namespace="other", agent="clerk", session="s1"), message_id="m1"),
        ),
        (
            "clerk/s1/an/id",
            "default",
            MessageRef(session=SessionRef(namespace="default", agent="clerk", session="s1"), message_id="an/id"),
        ),
    ],
)
def test_messages(text: str, namespace: str | None, expected: MessageRef) -> None:
    assert names.message(text, namespace) == expected


@pytest.mark.parametrize("text", ["clerk/s1", "clerk/s1/", "a/b/c/d/e"])
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write AGENT/SESSION/ID"):
        names.message(text, None)


def test_what_is_shown_finds_it_again() -> None:
    for ref in (SessionRef(agent="a", session="s"), SessionRef(namespace="n", agent="a", session="s")):
        assert names.session(names.shown(ref), None) == ref
    assert names.shown(SessionRef(namespace="default", agent="a", session="s"), "m") == "a/s/m"


@pytest.mark.parametrize(
    ("text", "namespace", "expected"),
    [
        ("clerk/s1/m1/approval", None, (SessionRef(agent="clerk", session="s1"), "m1/approval")),
        ("clerk/s1/m1/approval", "other", (SessionRef(namespace="other", agent="clerk", session="s1"), "m1/approval")),
        (
            "other/clerk/s1/m1/approval",
            None,
            (SessionRef(namespace="other", agent="clerk", session="s1"), "m1/approval"),
        ),
        (
            "clerk/s1/an/id/approval",
            "default",
            (SessionRef(namespace="default", agent="clerk", session="s1"), "an/id/approval"),
        ),
    ],
)
def test_promises(text: str, namespace: str | None, expected: tuple[SessionRef, str]) -> None:
    assert names.promise(text, namespace) == PromiseRef(session=expected[0], promise_id=expected[1])


@pytest.mark.parametrize("text", ["", "clerk", "clerk/s1", "clerk/s1/m1", "clerk/s1//x", "a/b/c/d/e/f"])
def test_what_is_no_promise_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        names.promise(text, None)


@pytest.mark.parametrize("namespace", ["default", "other"])
def test_what_is_shown_of_a_reminders_message_finds_it_and_its_promise(namespace: str) -> None:
    ref = SessionRef(namespace=namespace, agent="a", session="s")
    message_id = "reminder/daily/01a2-7f/12"
    message = names.message(names.shown(ref, message_id), None)
    promise = names.promise(names.shown(ref, f"{message_id}/approval"), None)
    assert (message.message_id, promise.promise_id) == (message_id, f"{message_id}/approval")
    for found in (message.session, promise.session):
        assert (found.namespace or "default", found.agent, found.session) == (namespace, "a", "s")


def test_a_new_session_is_short_and_never_the_same() -> None:
    made = {names.new_session() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"[a-z0-9]{4}-[a-z0-9]{4}", name) for name in made)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("1m30s", 90), ("2h", 7200), ("1.5m", 90), ("3", 3)]
)
def test_durations(text: str, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "10 s", "-1s", "1w", "s", "1s1"])
def test_what_is_no_duration_is_misuse(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no duration"):
        durations.parse(text)


@pytest.mark.parametrize("text", ["9" * 30 + "d", "9" * 400, "4000000d"])
def test_what_no_call_can_carry_is_misuse(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="longer than ten thousand years"):
        durations.parse(text)
    duration(durations.MOST)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 µs"), (1.2e-6, "1.2 µs"), (0.00123, "1.23 ms"), (0.5, "500 ms"), (12.3456, "12.3 s"), (1234.0, "1234 s")],
)
def test_durations_are_shown_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert durations.shown(seconds) == text


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["a/b", "hi", "--wait"], ["a/b", "hi", "--wait=60s"]),
        (["--wait", "a/b", "hi"], ["--wait=60s", "a/b", "hi"]),
        (["a/b", "--wait", "5s", "hi"], ["a/b", "--wait", "5s", "hi"]),
        (["--wait=5s", "a/b"], ["--wait=5s", "a/b"]),
        (["a/b", "--", "--wait"], ["a/b", "--", "--wait"]),
    ],
)
def test_wait_stands_with_and_without_a_duration(typed: list[str], read: list[str]) -> None:
    assert with_durations(typed) == read


@given(st.lists(st.text(min_size=1)))
def test_arguments_without_wait_stay_as_they_are(arguments: list[str]) -> None:
    rest = [one for one in arguments if one != "--wait"]
    assert with_durations(rest) == rest
