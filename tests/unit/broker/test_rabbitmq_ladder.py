"""Which delay queue a message waits in."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.rabbitmq.ladder import NEAR, RUNGS, STEPS, left, rung
from troupe.broker.retry import RetryPolicy


@given(st.floats(0.08, RUNGS[-1] / 1_000))
def test_a_rung_is_near_the_delay(delay: float) -> None:
    nearest = min(abs(each / 1_000 - delay) for each in RUNGS)
    assert abs(rung(delay) / 1_000 - delay) <= max(delay / 11, nearest) + 1e-9


@given(st.floats(0.001, 3_600), st.floats(0.001, 3_600))
def test_a_longer_delay_has_no_lower_rung(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert rung(low) <= rung(high)


@given(st.floats(0.001, 100.0))
def test_rungs_add_up_to_the_delay(delay: float) -> None:
    waited, rest = 0.0, delay
    while left(rest):
        waited += rung(rest) / 1_000
        rest = left(rest)
    assert rest > NEAR or delay <= NEAR
    assert abs(delay - waited - rung(rest) / 1_000) <= max(0.09 * rest, 0.2 * rest, RUNGS[0] / 1_000)


@pytest.mark.parametrize("failures", range(1, len(STEPS) + 1))
def test_the_jitter_of_retries_meets_each_spread_as_often(failures: int) -> None:
    policy, tries = RetryPolicy(), 10_000
    met = Counter(rung(policy.delay(failures, (each + 0.5) / tries)) for each in range(tries))

    assert set(met) == {STEPS[failures - 1] * spread // 100 for spread in (80, 90, 100, 110, 120)}
    assert max(met.values()) <= 0.21 * tries
