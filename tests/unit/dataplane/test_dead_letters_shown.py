"""Dead letters as clients see them: whatever a letter holds, it can be shown."""

import math

import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from support.letters import DIED, given_up, letter, undecodable

from troupe.broker.envelope import Undecodable
from troupe.chassis.wire import seconds
from troupe.dataplane.dead_letters.shown import message_in, shown
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Death, SessionRef


def test_it_says_all_that_is_known() -> None:
    envelope = given_up()
    envelope.source.CopyFrom(SessionRef(tenant="default", namespace="default", agent="boss", session="b"))
    envelope.redrives = 2
    envelope.deaths.add(reason="EARLIER", attempts=1)
    one = letter(envelope)
    seen = shown(one)
    assert (seen.letter_id, seen.pool, seen.message_id, seen.size) == (one.id, "agents", envelope.id, len(one.body))
    assert (seen.session, seen.source, seen.redrives) == (envelope.target, envelope.source, 2)
    assert [earlier.reason for earlier in seen.earlier] == ["EARLIER"]
    assert seen.first_sent == envelope.first_sent
    death = seen.death
    assert (death.reason, death.error, death.attempts) == ("MODEL_ERROR", "the model answered 500", 4)
    assert (seconds(death.first_failed), seconds(death.last_failed)) == (DIED - 5, DIED)
    assert (death.worker_id, death.revision_id, death.trace_id) == ("worker-0", "revision-1", one.trace_id)


def test_of_what_cannot_be_read_it_says_what_the_broker_knows() -> None:
    seen = shown(undecodable())
    assert seen.death.reason == "UNDECODABLE"
    assert not seen.HasField("session")
    assert not seen.HasField("first_sent")
    assert not seen.message_id


@pytest.mark.parametrize("trace", ["", "0" * 32, "nonsense"])
def test_a_trace_that_is_none_is_absent(trace: str) -> None:
    assert not shown(letter(trace_id=trace)).death.trace_id


@pytest.mark.parametrize("kind", [envelope_pb2.ENVELOPE_KIND_SKIP, envelope_pb2.ENVELOPE_KIND_PROBE])
def test_what_says_nothing_is_no_message(kind: envelope_pb2.EnvelopeKind.ValueType) -> None:
    envelope = given_up()
    envelope.kind = kind
    with pytest.raises(Undecodable, match="says nothing"):
        message_in(letter(envelope))


def test_half_a_surrogate_is_spelled_out() -> None:
    odd = "half \udc80"
    seen = shown(
        letter(error=odd, reason=odd, message_id=odd, worker_id=odd, revision_id=odd, session=odd, trace_id=odd)
    )
    assert (seen.death.error, seen.message_id) == ("half \\udc80", "half \\udc80")


TEXTS = st.text(st.characters(codec=None), max_size=20)
TIMES = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 253_402_300_800.0, -62_135_596_801.0])


@given(TEXTS, TEXTS, TEXTS, st.integers(-(2**70), 2**70), TIMES, TIMES, st.binary(max_size=40))
def test_whatever_a_letter_holds_programs_can_read_it(
    reason: str, session: str, trace: str, attempts: int, first: float, last: float, body: bytes
) -> None:
    odd = letter(
        reason=reason,
        error=reason,
        session=session,
        message_id=session,
        trace_id=trace,
        worker_id=trace,
        attempts=attempts,
        first_failed=first,
        last_failed=last,
        body=body,
    )
    json_format.MessageToJson(shown(odd))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_whatever_times_come_with_a_message_programs_can_read_it(whole: int, nanos: int) -> None:
    envelope = given_up()
    moment = Timestamp(seconds=whole, nanos=nanos)
    envelope.first_sent.CopyFrom(moment)
    envelope.deaths.append(Death(reason="EARLIER", first_failed=moment, last_failed=moment))
    json_format.MessageToJson(shown(letter(envelope)))
