"""Letters a second, on a clock of the test's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.dataplane.dead_letters.pace import CATCH_UP, Pace


def test_they_are_spread_evenly() -> None:
    pace, now, begun = Pace(10.0, 5.0), 5.0, []
    for _ in range(20):
        now += pace.wait(1, now)
        begun.append(now)
    assert begun == [pytest.approx(5.0 + 0.1 * number) for number in range(20)]


def test_without_a_rate_nothing_waits() -> None:
    pace = Pace(0.0, 0.0)
    assert [pace.wait(64, 0.0) for _ in range(100)] == [0.0] * 100
    assert pace.at_once(64) == 64


def test_a_slow_one_goes_one_by_one_and_a_fast_one_in_groups() -> None:
    assert [Pace(rate, 0.0).at_once(64) for rate in (0.001, 1, 19, 20, 300, 100_000)] == [1, 1, 1, 2, 30, 64]


def test_what_was_held_up_is_not_made_up_for_at_once() -> None:
    pace, now = Pace(10.0, 0.0), 0.0
    now += pace.wait(1, now) + 100.0
    for _ in range(11):
        now += pace.wait(1, now)
    assert now == pytest.approx(100.0 + 1.0 - CATCH_UP)


@given(st.floats(0.1, 100_000.0), st.lists(st.floats(0.0, 3.0), min_size=1, max_size=50))
def test_whatever_holds_them_up_none_is_far_ahead_of_its_time(rate: float, pauses: list[float]) -> None:
    pace, now, begun = Pace(rate, 0.0), 0.0, 0
    at_once = pace.at_once(64)
    for pause in pauses:
        now += pace.wait(at_once, now) + pause
        begun += at_once
        assert begun <= rate * (now + CATCH_UP) + at_once + 1e-6
