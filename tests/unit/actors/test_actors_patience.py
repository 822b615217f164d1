"""How long an arrival may wait for its session: as long as that is cheaper than the inbox, and no longer."""

import pytest

from troupe.broker.order import Number
from troupe.broker.port import Delivery
from troupe.dataplane.actors.arrivals import Arrival, Arrivals
from troupe.dataplane.actors.patience import PATIENCE, WORTH, Patience
from troupe.dataplane.state.session import Entry
from troupe.v1.envelope_pb2 import Envelope

LEAST, MOST = PATIENCE


def test_a_store_that_is_quick_or_has_taken_nothing_yet_gives_the_least() -> None:
    patience = Patience()
    assert patience.seconds == LEAST

    for _ in range(100):
        patience.committed(0.001)

    assert patience.seconds == LEAST


def test_a_store_that_is_slow_gives_a_few_commits_time_and_the_least_again_once_it_is_quick() -> None:
    patience = Patience()

    for _ in range(100):
        patience.committed(0.1)
    assert patience.seconds == pytest.approx(WORTH * 0.1, rel=0.01)

    for _ in range(100):
        patience.committed(0.001)
    assert patience.seconds == LEAST


def test_however_slow_the_store_is_an_arrival_waits_for_a_bounded_time() -> None:
    patience = Patience()

    for _ in range(100):
        patience.committed(60.0)

    assert patience.seconds == MOST


def test_one_slow_commit_among_quick_ones_does_not_hold_arrivals_up() -> None:
    patience = Patience()
    for _ in range(100):
        patience.committed(0.001)

    patience.committed(0.15)

    assert patience.seconds == LEAST


def test_behind_more_commits_than_it_is_worth_to_wait_for_the_least_is_waited() -> None:
    patience = Patience()
    for _ in range(100):
        patience.committed(0.1)

    assert [patience.behind_commits(count) for count in (1, WORTH)] == [patience.seconds] * 2
    assert patience.seconds > patience.behind_commits(WORTH + 1) == LEAST


def test_arrivals_are_due_by_the_patience_of_now_but_those_for_later_at_once(arrival: Arrival, later: Arrival) -> None:
    patience = Patience()
    waiting, scheduled = Arrivals(lambda: patience.seconds), Arrivals(lambda: patience.seconds)
    waiting.add(arrival)
    scheduled.add(later)

    for _ in range(100):
        patience.committed(0.1)

    assert waiting.due() == arrival.at + patience.seconds
    assert scheduled.due() == later.at


@pytest.fixture
def arrival() -> Arrival:
    return _arrival(due=0.0)


@pytest.fixture
def later() -> Arrival:
    return _arrival(due=2_000_000_000.0)


def _arrival(due: float) -> Arrival:
    delivery = Delivery(b"", "mailbox", published=0.0, redeliveries=0, settle=lambda: None)
    return Arrival(delivery, Envelope(), Entry(Number("stream", 1), "message", b"", placed=0.0, due=due), at=100.0)
