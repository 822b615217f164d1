"""Which messages are taken, when one is due, and what travels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import InvalidArgument, Unimplemented
from troupe.chassis.tracing import Carrier
from troupe.chassis.wire import duration, seconds, timestamp
from troupe.dataplane import messages
from troupe.dataplane.messages import AHEAD, EXPIRES
from troupe.v1 import agent_pb2
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.envelope_pb2 import Content, Envelope

NOW = 1_800_000_000.0
KEY = SessionKey("t", "n", "agent", "s")


def request(**parts: Any) -> SendRequest:
    return SendRequest(content=Content(text="hello"), **parts)


def check(asked: SendRequest, *, awaited: bool = False) -> None:
    messages.check("m", asked, NOW, awaited=awaited)


def envelope(asked: SendRequest) -> Envelope:
    return messages.envelope(KEY, "m", asked, NOW, 3, Carrier("parent", "state"))


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(deliver_after=duration(0)),
        request(deliver_after=duration(AHEAD)),
        request(deliver_at=timestamp(NOW + AHEAD)),
        request(deliver_at=timestamp(0)),
        request(deliver_at=timestamp(-1e9)),
        request(on_busy=agent_pb2.ON_BUSY_ENQUEUE),
        request(on_busy=agent_pb2.ON_BUSY_REJECT, deliver_after=duration(1)),
        request(on_busy=agent_pb2.ON_BUSY_REJECT, deliver_at=timestamp(1)),
        request(attributes={f"k{number}": "v" * 255 for number in range(16)}),
        request(attributes={"k" * 63: "", "é" * 31: "é" * 127}),
    ],
)
def test_what_is_taken(asked: SendRequest) -> None:
    check(asked)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(deliver_after=duration(-0.001)), "BAD_DUE"),
        (request(deliver_after=duration(AHEAD + 1)), "BAD_DUE"),
        (request(deliver_at=timestamp(NOW + AHEAD + 1)), "BAD_DUE"),
        (request(deliver_after=duration(1), deliver_at=timestamp(NOW)), "BAD_DUE"),
        (request(on_busy=agent_pb2.ON_BUSY_REJECT), "REJECT_UNHEARD"),
        (request(attributes={f"k{number}": "v" for number in range(17)}), "BAD_ATTRIBUTES"),
        (request(attributes={"": "v"}), "BAD_ATTRIBUTES"),
        (request(attributes={"k" * 64: "v"}), "BAD_ATTRIBUTES"),
        (request(attributes={"é" * 32: "v"}), "BAD_ATTRIBUTES"),
        (request(attributes={"k": "v" * 256}), "BAD_ATTRIBUTES"),
        (request(attributes={"k": "é" * 128}), "BAD_ATTRIBUTES"),
    ],
)
def test_what_is_not(asked: SendRequest, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(asked)
    assert refused.value.reason == reason


def test_who_waits_hears_of_a_rejection() -> None:
    check(request(on_busy=agent_pb2.ON_BUSY_REJECT), awaited=True)


@pytest.mark.parametrize("value", [agent_pb2.ON_BUSY_INTERRUPT, agent_pb2.ON_BUSY_STEER, 77])
def test_what_is_not_built_is_never_taken_for_something_else(value: Any) -> None:
    with pytest.raises(Unimplemented):
        check(request(on_busy=value), awaited=True)


def test_a_message_without_a_time_has_none() -> None:
    sent = envelope(request())
    assert not sent.HasField("due")
    assert (seconds(sent.first_sent), seconds(sent.expires)) == (NOW, NOW + EXPIRES)


@pytest.mark.parametrize("ago", [0.0, 5.0, NOW])
def test_whether_its_time_is_over_is_the_stores_to_say(ago: float) -> None:
    sent = envelope(request(deliver_at=timestamp(NOW - ago)))
    assert seconds(sent.due) == max(1.0, NOW - ago)
    assert (seconds(sent.first_sent), seconds(sent.expires)) == (NOW, NOW + EXPIRES)


@given(ahead=st.integers(1, 366 * 86_400_000).map(lambda millis: millis / 1000), by_time=st.booleans())
def test_of_a_scheduled_message_time_counts_from_when_it_is_due(ahead: float, by_time: bool) -> None:
    when = {"deliver_at": timestamp(NOW + ahead)} if by_time else {"deliver_after": duration(ahead)}
    sent = envelope(request(expires=duration(60), **when))
    assert seconds(sent.due) == seconds(sent.first_sent) == pytest.approx(NOW + ahead, abs=1e-6)
    assert seconds(sent.expires) == pytest.approx(NOW + ahead + 60, abs=1e-5)


def test_what_travels() -> None:
    sent = envelope(request(on_busy=agent_pb2.ON_BUSY_REJECT, attributes={"team": "shop"}))
    assert (sent.id, sent.generation, sent.traceparent, sent.tracestate) == ("m", 3, "parent", "state")
    assert (sent.target, sent.content.text) == (KEY.ref(), "hello")
    assert (sent.reject_when_busy, dict(sent.attributes)) == (True, {"team": "shop"})
    assert not envelope(request()).reject_when_busy
