"""Waiting times come from the distribution that was asked for."""

import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.llm_sim.distributions import parse

SECONDS = st.floats(0.001, 1000)


@given(SECONDS)
def test_a_constant_is_always_itself(seconds: float) -> None:
    assert parse(f"constant:{seconds}").sample(Random(1)) == seconds
    assert parse(str(seconds)).sample(Random(2)) == seconds


def test_half_of_a_lognormal_is_below_the_median_and_one_in_a_hundred_above_p99() -> None:
    samples = _samples("lognormal:0.05,0.15")

    assert statistics.median(samples) == pytest.approx(0.05, rel=0.05)
    assert sum(sample > 0.15 for sample in samples) / len(samples) == pytest.approx(0.01, rel=0.2)


def test_a_normal_has_its_mean_and_deviation() -> None:
    samples = _samples("normal:0.1,0.02")

    assert statistics.mean(samples) == pytest.approx(0.1, rel=0.02)
    assert statistics.stdev(samples) == pytest.approx(0.02, rel=0.05)


def test_an_exponential_has_its_mean() -> None:
    assert statistics.mean(_samples("exponential:0.2")) == pytest.approx(0.2, rel=0.05)


@given(
    st.one_of(
        st.builds("normal:{},{}".format, SECONDS, SECONDS),
        st.builds(lambda median, factor: f"lognormal:{median},{median * factor}", SECONDS, st.floats(1, 100)),
        st.builds("exponential:{}".format, st.floats(0, 1000)),
    ),
    st.integers(),
)
def test_samples_are_never_negative_and_repeat_with_the_seed(text: str, seed: int) -> None:
    one, other = Random(seed), Random(seed)

    first = [parse(text).sample(one) for _ in range(10)]

    assert min(first) >= 0
    assert first == [parse(text).sample(other) for _ in range(10)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "constant:",
        "constant:1,2",
        "normal:1",
        "lognormal:0,1",
        "lognormal:2,1",
        "uniform:1,2",
        "constant:-1",
        "constant:nan",
        "exponential:inf",
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no distribution; write|finite and not negative|needs 0 < median"):
        parse(text)


def _samples(text: str) -> list[float]:
    rng = Random(7)
    distribution = parse(text)
    return [distribution.sample(rng) for _ in range(20_000)]
