"""How long an arrival may wait for its session: as long as that is cheaper than the inbox, and no longer."""

import pytest

from troupe.broker.order import Number
from troupe.broker.port import Delivery
from troupe.dataplane.actors.arrivals import Arrival, Arrivals
from troupe.dataplane.actors.pace import PATIENCE, WORTH, Pace
from troupe.dataplane.state.port import Entry
from troupe.v1.envelope_pb2 import Envelope

LEAST, MOST = PATIENCE


def test_a_store_that_is_quick_or_has_taken_nothing_yet_gives_the_least() -> None:
    pace = Pace()
    assert pace.patience == LEAST

    for _ in range(100):
        pace.committed(0.001)

    assert pace.patience == LEAST


def test_a_store_that_is_slow_gives_a_few_commits_time_and_the_least_again_once_it_is_quick() -> None:
    pace = Pace()

    for _ in range(100):
        pace.committed(0.1)
    assert pace.patience == pytest.approx(WORTH * 0.1, rel=0.01)

    for _ in range(100):
        pace.committed(0.001)
    assert pace.patience == LEAST


def test_however_slow_the_store_is_an_arrival_waits_for_a_bounded_time() -> None:
    pace = Pace()

    for _ in range(100):
        pace.committed(60.0)

    assert pace.patience == MOST


def test_one_slow_commit_among_quick_ones_does_not_hold_arrivals_up() -> None:
    pace = Pace()
    for _ in range(100):
        pace.committed(0.001)

    pace.committed(0.15)

    assert pace.patience == LEAST


def test_arrivals_are_due_by_the_pace_of_now_but_those_for_later_at_once(arrival: Arrival, later: Arrival) -> None:
    pace = Pace()
    waiting, scheduled = Arrivals(lambda: pace.patience), Arrivals(lambda: pace.patience)
    waiting.add(arrival)
    scheduled.add(later)

    for _ in range(100):
        pace.committed(0.1)

    assert waiting.due() == arrival.at + pace.patience
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
