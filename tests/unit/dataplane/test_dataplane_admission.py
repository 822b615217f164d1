"""Which messages a gateway takes, as a function of what was sampled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import ResourceExhausted
from troupe.dataplane import admission as module
from troupe.dataplane.admission import GOOD_FOR, SAMPLED_FOR, Admission, Limits, Wanted
from troupe.dataplane.state.session import Backlog

LIMITS = Limits(mailbox_messages=100, mailbox_bytes=10_000, session_messages=10, session_bytes=1_000)
NOTHING = Backlog(0, 0)


def key(session: str = "s") -> SessionKey:
    return SessionKey("default", "default", "clerk", session)


def refusal(admission: Admission, now: float, session: str = "s", here: int | None = None) -> str:
    """The reason; empty where the message is taken."""
    try:
        admission.check(key(session), 0, here, now)
    except ResourceExhausted as error:
        return error.reason if error.retry_after else "without a delay"
    return ""


def test_what_was_never_sampled_is_taken_and_sampled() -> None:
    admission = Admission(LIMITS)
    assert admission.take_wanted() == Wanted((), ())
    assert refusal(admission, 0.0) == ""
    assert admission.take_wanted() == Wanted((0,), ())
    assert admission.take_wanted() == Wanted((), ())


def test_one_sample_a_second_is_wanted_of_what_is_sent_to() -> None:
    admission = Admission(LIMITS)
    admission.sampled(0, 0, NOTHING, 10.0)
    refusal(admission, 10.0 + SAMPLED_FOR - 0.01)
    assert not admission.wants
    refusal(admission, 10.0 + SAMPLED_FOR)
    assert admission.take_wanted().shards == (0,)


@pytest.mark.parametrize(
    ("queued", "waiting", "size", "full"),
    [
        (99, NOTHING, 1, False),
        (100, NOTHING, 1, True),
        (60, Backlog(39, 0), 1, False),
        (60, Backlog(40, 0), 1, True),
        (50, Backlog(9, 900), 181, False),
        (50, Backlog(9, 900), 182, True),
        (0, Backlog(0, 10_000), 0, True),
    ],
)
def test_a_mailbox_is_full_by_what_queue_and_inboxes_hold_together(
    queued: int, waiting: Backlog, size: int, full: bool
) -> None:
    admission = Admission(LIMITS)
    for _ in range(1000):
        admission.published(size)
    admission.sampled(0, queued, waiting, 0.0)
    assert refusal(admission, 1.0) == ("MAILBOX_FULL" if full else "")
    assert refusal(admission, GOOD_FOR) == "", "it says nothing any more"


def test_a_session_is_full_alone() -> None:
    admission = Admission(LIMITS)
    admission.sampled(0, 0, Backlog(12, 10), 0.0)
    assert refusal(admission, 0.1) == ""
    assert admission.take_wanted().sessions == (key(),)
    admission.sampled_session(key(), Backlog(10, 10), 0.2)
    admission.sampled_session(key("light"), Backlog(2, 0), 0.2)
    admission.sampled_session(key("heavy"), Backlog(2, 1000), 0.2)
    reasons = [refusal(admission, 0.3, session) for session in ("s", "light", "heavy", "unknown")]
    assert reasons == ["SESSION_FULL", "", "SESSION_FULL", ""]


def test_sessions_are_looked_at_only_where_their_shard_has_enough_for_one_to_be_full() -> None:
    admission = Admission(LIMITS)
    admission.sampled(0, 90, Backlog(9, 999), 0.0)
    assert refusal(admission, 0.1) == ""
    assert not admission.wants


def test_what_is_in_memory_needs_no_sample() -> None:
    admission = Admission(LIMITS)
    assert refusal(admission, 0.0, here=9) == ""
    assert refusal(admission, 0.0, here=10) == "SESSION_FULL"


def test_samples_of_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 3)
    admission = Admission(LIMITS)
    admission.sampled(0, 0, Backlog(99, 0), 0.0)
    for number in range(5):
        assert refusal(admission, 0.1, f"s{number}") == ""
    assert len(admission.take_wanted().sessions) == 3
    for number in range(5):
        admission.sampled_session(key(f"s{number}"), Backlog(10, 0), 0.1)
    reasons = [refusal(admission, 0.2, f"s{number}") for number in range(5)]
    assert reasons == ["", "", "SESSION_FULL", "SESSION_FULL", "SESSION_FULL"]


@given(st.lists(st.integers(1, 1_000_000), min_size=1, max_size=200))
def test_the_mean_size_lies_among_the_sizes(sizes: list[int]) -> None:
    admission = Admission(LIMITS)
    for size in sizes:
        admission.published(size)
    assert min(sizes) - 1 <= admission._mean <= max(sizes) + 1
