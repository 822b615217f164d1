"""The retry schedule."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.retry import JITTER, RetryPolicy

DICE = st.floats(0.0, 1.0, exclude_max=True)
NOW = 1_700_000_000.0
NEVER = float("inf")
POLICIES = st.builds(
    RetryPolicy, max_retries=st.integers(0, 100), initial_delay=st.floats(0.001, 10), max_delay=st.floats(0.001, 100)
)


@pytest.mark.parametrize(("failures", "plain"), [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.6), (6, 1.6), (99, 1.6)])
def test_the_default_delays_double_up_to_their_cap(failures: int, plain: float) -> None:
    assert RetryPolicy().delay(failures, dice=0.5) == pytest.approx(plain)


@given(POLICIES, st.integers(1, 10_000), DICE)
def test_a_delay_stays_within_the_jitter_of_its_step(policy: RetryPolicy, failures: int, dice: float) -> None:
    plain = min(policy.max_delay, policy.initial_delay * 2 ** min(failures - 1, 200))

    assert plain * (1 - JITTER) * (1 - 1e-9) <= policy.delay(failures, dice) <= plain * (1 + JITTER) * (1 + 1e-9)


def test_what_failed_together_comes_back_spread_evenly() -> None:
    delays = [RetryPolicy().delay(5, dice=number / 200) for number in range(200)]

    assert max(delays) - min(delays) == pytest.approx(2 * JITTER * 1.6, rel=0.01)
    assert statistics.mean(delays) == pytest.approx(1.6, rel=0.01)
    busiest = max(sum(1 for delay in delays if start <= delay < start + 0.05) for start in delays)
    assert busiest <= 0.1 * len(delays)


@given(POLICIES, st.integers(1, 200), DICE)
def test_a_message_has_its_first_try_and_max_retries_more(policy: RetryPolicy, failures: int, dice: float) -> None:
    again = policy.retry_at(failures, NOW, dice, expires=NEVER)

    assert (again is not None) == (failures <= policy.max_retries)


@given(POLICIES, st.integers(1, 5), DICE, st.floats(0, 1000), st.one_of(st.none(), st.floats(0, 1000)))
def test_a_retry_is_neither_early_nor_past_the_expiry(
    policy: RetryPolicy, failures: int, dice: float, expires_in: float, retry_after: float | None
) -> None:
    earliest = NOW + max(policy.delay(failures, dice), retry_after or 0.0)

    again = policy.retry_at(failures, NOW, dice, NOW + expires_in, retry_after)

    if failures > policy.max_retries or earliest >= NOW + expires_in:
        assert again is None
    else:
        assert again == earliest


def test_retry_after_lengthens_a_delay_and_never_shortens_it() -> None:
    policy = RetryPolicy()

    assert policy.retry_at(1, NOW, 0.5, NEVER, retry_after=7.0) == NOW + 7.0
    assert policy.retry_at(1, NOW, 0.5, NEVER, retry_after=0.01) == pytest.approx(NOW + 0.1)
