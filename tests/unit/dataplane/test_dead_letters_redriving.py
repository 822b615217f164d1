"""What redriving does with one letter, and what it sends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.letters import DIED, given_up, letter

from troupe.broker.envelope import decode
from troupe.chassis.wire import seconds, timestamp
from troupe.dataplane.dead_letters.redriving import NOT_COMPENSATED, redriven, undecodable, verdict
from troupe.dataplane.dead_letters.shown import death
from troupe.v1 import turn_pb2
from troupe.v1.dead_letter_pb2 import RedriveOutcome
from troupe.v1.envelope_pb2 import Death, Envelope, SessionRef
from troupe.v1.turn_pb2 import Fate

NOW = DIED + 10_000

TABLE = {
    None: ("NOT_SETTLED", False, False),
    turn_pb2.FATE_DEAD: ("REDRIVEN", True, True),
    turn_pb2.FATE_EXPIRED: ("REDRIVEN", True, True),
    turn_pb2.FATE_DONE: ("OBSOLETE", False, True),
    turn_pb2.FATE_CANCELLED: ("OBSOLETE", False, True),
}


@pytest.mark.parametrize("fate", TABLE, ids=lambda fate: "no record" if fate is None else Fate.Name(fate))
def test_only_what_ended_dead_is_sent_and_only_what_is_not_settled_stays(fate: Fate.ValueType | None) -> None:
    judged = verdict(letter(), fate)
    name = RedriveOutcome.Name(judged.outcome).removeprefix("REDRIVE_OUTCOME_")
    assert (name, judged.sends, judged.removes) == TABLE[fate]
    assert bool(judged.detail) is not judged.sends


@pytest.mark.parametrize("fate", [turn_pb2.FATE_CANCELLED, None], ids=["cancelled", "its record is forgotten"])
def test_what_a_cancelled_message_left_standing_stays_until_it_is_purged(fate: Fate.ValueType | None) -> None:
    judged = verdict(letter(reason=NOT_COMPENSATED), fate)
    assert RedriveOutcome.Name(judged.outcome) == "REDRIVE_OUTCOME_NOT_COMPENSATED"
    assert not judged.sends
    assert not judged.removes
    assert "purge it" in judged.detail


def test_what_ended_dead_is_sent_whatever_its_own_code_said() -> None:
    assert verdict(letter(reason=NOT_COMPENSATED), turn_pb2.FATE_DEAD).sends


def test_a_letter_without_a_mailbox_stays() -> None:
    judged = undecodable("the body is no envelope")
    assert RedriveOutcome.Name(judged.outcome) == "REDRIVE_OUTCOME_UNDECODABLE"
    assert not judged.sends
    assert not judged.removes
    assert "the body is no envelope" in judged.detail


def test_it_is_a_new_message_with_the_old_id_content_and_history() -> None:
    first = given_up(text="what was said")
    first.source.CopyFrom(SessionRef(tenant="default", namespace="default", agent="boss", session="b"))
    first.attempt = 3
    first.correlation_id, first.traceparent, first.generation = "run", "00-trace-span-01", 7
    dead, before = letter(first), Envelope()
    before.CopyFrom(first)

    again = redriven(dead, first, NOW)

    assert decode(again.SerializeToString()) == again
    assert (again.number.stream, again.number.sequence) == (dead.id, 1)
    assert seconds(again.first_sent) == NOW
    assert seconds(again.expires) == NOW + 3600
    assert (again.attempt, again.redrives) == (0, 1)
    assert list(again.deaths) == [death(dead)]
    kept = ("id", "source", "target", "kind", "content", "correlation_id", "traceparent", "generation")
    assert all(getattr(again, field) == getattr(first, field) for field in kept)
    assert first == before, "what it is made from stays as it is"


def test_the_same_letter_brings_the_same_number_and_another_one_another() -> None:
    first = given_up()
    one, other = letter(first), letter(first)
    assert redriven(one, first, NOW).number == redriven(one, first, NOW + 60).number
    assert redriven(one, first, NOW).number != redriven(other, first, NOW).number


def test_the_newest_ten_deaths_come_along_oldest_first() -> None:
    envelope = given_up()
    for count in range(1, 15):
        envelope = redriven(letter(envelope, reason=f"DEATH_{count}"), envelope, NOW + count)
        assert envelope.redrives == count
    assert [one.reason for one in envelope.deaths] == [f"DEATH_{number}" for number in range(5, 15)]


@given(st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_whatever_an_envelope_says_of_its_past_the_next_one_is_bounded(deaths: int, redrives: int) -> None:
    envelope = given_up()
    envelope.deaths.extend(Death(reason=str(number)) for number in range(deaths))
    envelope.redrives = redrives
    again = redriven(letter(envelope), envelope, NOW)
    assert len(again.deaths) == min(deaths + 1, 10)
    assert again.redrives == min(redrives + 1, 2**32 - 1)


DAY = 24 * 3600.0


@pytest.mark.parametrize(
    ("sent", "expires", "lasts"),
    [
        (100.0, 100.5, 0.5),
        (100.0, 100.0 + DAY, DAY),
        (100.0, 100.0 + 2 * DAY, DAY),
        (100.0, 100.0, DAY),
        (100.0, 50.0, DAY),
        (100.0, None, DAY),
        (None, 100.0, DAY),
        (None, None, DAY),
    ],
)
def test_it_is_good_for_as_long_as_at_first_and_a_day_at_most(
    sent: float | None, expires: float | None, lasts: float
) -> None:
    envelope = given_up()
    for field, value in (("first_sent", sent), ("expires", expires)):
        envelope.ClearField(field)  # type: ignore[arg-type]
        if value is not None:
            getattr(envelope, field).CopyFrom(timestamp(value))
    assert seconds(redriven(letter(envelope), envelope, NOW).expires) == pytest.approx(NOW + lasts)
