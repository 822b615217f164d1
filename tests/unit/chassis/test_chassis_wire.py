import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis import wire

SECONDS = st.floats(min_value=-1e10, max_value=1e10, allow_nan=False)


@given(SECONDS)
def test_a_time_comes_back_as_near_as_a_nanosecond_allows(seconds: float) -> None:
    assert wire.seconds(wire.timestamp(seconds)) == pytest.approx(seconds, rel=1e-15, abs=5e-10)
    assert wire.seconds(wire.duration(seconds)) == pytest.approx(seconds, rel=1e-15, abs=5e-10)


@given(SECONDS)
def test_what_goes_out_is_valid_for_every_reader(seconds: float) -> None:
    timestamp, duration = wire.timestamp(seconds), wire.duration(seconds)
    assert 0 <= timestamp.nanos < wire.NANOS
    assert abs(duration.nanos) < wire.NANOS
    assert duration.seconds * duration.nanos >= 0  # never of different sign


def test_a_time_of_today_is_exact() -> None:
    moment = datetime(2024, 5, 17, 12, 30, 45, 123456, tzinfo=UTC)
    sent = wire.timestamp(moment.timestamp())
    assert sent.ToDatetime(tzinfo=UTC) == moment
    assert wire.seconds(sent) == moment.timestamp()


@pytest.mark.parametrize(
    ("seconds", "whole", "nanos"), [(0.1, 0, 100_000_000), (-0.25, 0, -250_000_000), (1 - 1e-12, 1, 0)]
)
def test_durations_round_to_the_nanosecond(seconds: float, whole: int, nanos: int) -> None:
    sent = wire.duration(seconds)
    assert (sent.seconds, sent.nanos) == (whole, nanos)


def test_a_time_just_below_a_second_rounds_up_to_it() -> None:
    assert wire.timestamp(-1e-12).seconds == 0
    assert wire.timestamp(-1e-12).nanos == 0


@pytest.mark.parametrize("endless", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_refused(endless: float) -> None:
    with pytest.raises((OverflowError, ValueError)):
        wire.timestamp(endless)
    with pytest.raises((OverflowError, ValueError)):
        wire.duration(endless)
