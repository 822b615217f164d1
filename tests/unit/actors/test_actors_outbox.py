"""What an actor's turn sends, as messages: numbers, ids, and what may be sent at all."""

import itertools

import pytest
from support.attempts import Attempts
from support.fake_clock import FakeClock

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.errors import InvalidArgument
from troupe.chassis.tracing import Carrier
from troupe.dataplane.actors.behaviour import Send
from troupe.dataplane.actors.outbox import FORGET_STREAM, outgoing
from troupe.dataplane.behaviours.context import MAX_SENDS, Context
from troupe.dataplane.state.session import Loaded, Outgoing, Sent
from troupe.v1.envelope_pb2 import Content, Envelope

A, B, C = (SessionKey("tenant", "default", "clerk", name) for name in "abc")
NOW = 1_700_000_000.0


def _send(*targets: SessionKey, sent: dict[str, Sent] | None = None, cause: str = "m") -> list[Outgoing]:
    streams = map("new-{}".format, itertools.count(1))
    return outgoing(
        A,
        Envelope(id=cause, correlation_id="run"),
        [Send(target, Content(text=str(index))) for index, target in enumerate(targets)],
        Loaded(sent=sent or {}),
        generation=7,
        carrier=Carrier("parent", "state"),
        now=NOW,
        new_stream=lambda: next(streams),
    )


def test_each_target_has_a_stream_of_its_own_that_goes_on() -> None:
    messages = _send(B, C, B, sent={B.path: Sent(Number("old", 41), NOW - 10)})
    assert [message.number for message in messages] == [Number("old", 42), Number("new-1", 1), Number("old", 43)]
    assert [message.target for message in messages] == [B.path, C.path, B.path]


def test_after_a_day_of_silence_a_stream_is_not_gone_on_with() -> None:
    assert _send(B, sent={B.path: Sent(Number("old", 41), NOW - FORGET_STREAM)})[0].number == Number("old", 42)
    assert _send(B, sent={B.path: Sent(Number("old", 41), NOW - FORGET_STREAM - 1)})[0].number == Number("new-1", 1)


def test_ids_are_the_same_each_time_and_differ_by_cause_and_place() -> None:
    def ids(cause: str) -> list[str]:
        return [Envelope.FromString(message.envelope).id for message in _send(B, B, cause=cause)]

    assert ids("m") == ids("m")
    assert len({*ids("m"), *ids("n")}) == 4


def test_the_envelope_says_what_it_belongs_to() -> None:
    envelope = Envelope.FromString(_send(B)[0].envelope)
    assert (envelope.source, envelope.target, envelope.generation) == (A.ref(), B.ref(), 7)
    assert (envelope.correlation_id, envelope.traceparent, envelope.tracestate) == ("run", "parent", "state")


def _context() -> Context:
    turn = Attempts().begun(key=SessionKey("tenant", "shop", "clerk", "a"))
    return Context(turn, "Actor/shop/clerk", b"", FakeClock())


def test_a_target_is_of_the_senders_namespace_and_tenant_unless_it_says_otherwise() -> None:
    context = _context()
    context.send("other", "s", "text")
    context.send("other", "s", b"{}", content_type="application/json", namespace="bank")
    assert [send.target for send in context.sends] == [
        SessionKey("tenant", "shop", "other", "s"),
        SessionKey("tenant", "bank", "other", "s"),
    ]
    assert context.sends[1].content.data.content_type == "application/json"


@pytest.mark.parametrize(("agent", "session"), [("No Name", "s"), ("a", "x/y")])
def test_what_cannot_be_sent_is_refused_at_once(agent: str, session: str) -> None:
    with pytest.raises(InvalidArgument):
        _context().send(agent, session, "text")


def test_a_turn_sends_so_much_and_no_more() -> None:
    context = _context()
    for _ in range(MAX_SENDS):
        context.send("other", "s", "text")
    with pytest.raises(InvalidArgument, match="at most"):
        context.send("other", "s", "text")
    large = _context()
    with pytest.raises(InvalidArgument, match="at most"):
        for _ in range(70):
            large.send("other", "s", "x" * 250_000)
