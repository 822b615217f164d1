"""Which dead letters a filter takes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.letters import DIED, given_up, letter, undecodable

from troupe.broker.addressing import DEFAULT
from troupe.chassis.wire import timestamp
from troupe.dataplane.dead_letters.filter import Filter
from troupe.v1.dead_letter_pb2 import DeadLetterFilter
from troupe.v1.envelope_pb2 import SessionRef


def test_an_empty_filter_takes_every_letter_of_its_tenant() -> None:
    everything = Filter.of(DeadLetterFilter(), DEFAULT)
    assert everything.takes(letter())
    assert everything.takes(undecodable())
    assert not everything.narrows
    assert not Filter("other").takes(letter())


def test_what_names_no_session_is_the_default_tenants_alone() -> None:
    for session in ("", "a/b", "default/default/Clerk/s", "x" * 1000):
        odd = letter(session=session)
        assert Filter(DEFAULT).takes(odd)
        assert not Filter("other").takes(odd)
        assert not Filter(DEFAULT, agent="clerk").takes(odd)


def test_a_tenant_sees_its_own() -> None:
    theirs = given_up()
    theirs.target.tenant = "other"
    assert Filter("other").takes(letter(theirs))
    assert not Filter(DEFAULT).takes(letter(theirs))


ONE = letter()


@pytest.mark.parametrize(
    ("asked", "takes"),
    [
        (DeadLetterFilter(letter_ids=["another", ONE.id]), True),
        (DeadLetterFilter(letter_ids=["another"]), False),
        (DeadLetterFilter(reasons=["OTHER", "MODEL_ERROR"]), True),
        (DeadLetterFilter(reasons=["MODEL"]), False),
        (DeadLetterFilter(session=SessionRef(namespace="default")), True),
        (DeadLetterFilter(session=SessionRef(namespace="else")), False),
        (DeadLetterFilter(session=SessionRef(agent="clerk")), True),
        (DeadLetterFilter(session=SessionRef(agent="cler")), False),
        (DeadLetterFilter(session=SessionRef(session="s")), True),
        (DeadLetterFilter(session=SessionRef(agent="clerk", session="s1")), False),
        (DeadLetterFilter(since=timestamp(DIED)), True),
        (DeadLetterFilter(since=timestamp(DIED + 0.001)), False),
        (DeadLetterFilter(before=timestamp(DIED + 0.001)), True),
        (DeadLetterFilter(before=timestamp(DIED)), False),
        (DeadLetterFilter(reasons=["MODEL_ERROR"], session=SessionRef(agent="other")), False),
    ],
)
def test_each_part_narrows(asked: DeadLetterFilter, takes: bool) -> None:
    chosen = Filter.of(asked, DEFAULT)
    assert chosen.takes(ONE) is takes
    assert chosen.narrows


FILTERS = st.builds(
    Filter,
    st.just(DEFAULT),
    ids=st.frozensets(st.sampled_from([ONE.id, "x"])),
    reasons=st.frozensets(st.sampled_from(["MODEL_ERROR", "OTHER"])),
    agent=st.sampled_from(["", "clerk", "other"]),
    since=st.sampled_from([-math.inf, DIED, DIED + 1]),
    before=st.sampled_from([math.inf, DIED, DIED + 1]),
)


@given(FILTERS)
def test_all_that_is_given_must_hold(whole: Filter) -> None:
    parts = [
        Filter(DEFAULT, ids=whole.ids),
        Filter(DEFAULT, reasons=whole.reasons),
        Filter(DEFAULT, agent=whole.agent),
        Filter(DEFAULT, since=whole.since),
        Filter(DEFAULT, before=whole.before),
    ]
    assert whole.takes(ONE) == all(part.takes(ONE) for part in parts)
