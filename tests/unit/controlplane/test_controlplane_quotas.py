"""How many shards each worker is to have."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.controlplane.quotas import quotas

NAMES = st.text(st.characters(codec=None), max_size=6)
WEIGHTS = st.dictionaries(NAMES, st.sampled_from([1.0, 2.0]) | st.floats(0.01, 1000), max_size=12)
SHARDS = st.integers(1, 300)


@given(SHARDS, WEIGHTS, st.data())
def test_all_shards_are_given_and_nobody_is_a_whole_shard_off_its_share(
    shards: int, weights: dict[str, float], data: st.DataObject
) -> None:
    held = data.draw(st.dictionaries(st.sampled_from(sorted(weights)), st.integers(0, 300))) if weights else {}
    given_out = quotas(shards, weights, held)
    assert sum(given_out.values()) == (shards if weights else 0)
    total = sum(Fraction(weight) for weight in weights.values())
    for worker, weight in weights.items():
        assert abs(given_out[worker] - shards * Fraction(weight) / total) < 1
    order = data.draw(st.permutations(sorted(weights)))
    assert quotas(shards, {worker: weights[worker] for worker in order}, held) == given_out


@pytest.mark.parametrize(
    ("shards", "weights", "held", "expected"),
    [
        (8, {"a": 1, "b": 3}, {}, {"a": 2, "b": 6}),
        (10, {"a": 1, "b": 1, "c": 1.1}, {"a": 4}, {"a": 3, "b": 3, "c": 4}),
        (7, {"a": 1, "b": 1, "c": 1}, {}, {"a": 3, "b": 2, "c": 2}),
        (7, {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 3}, {"a": 2, "b": 2, "c": 3}),
        (11, {"a": 1, "b": 1, "c": 1}, {"a": 4, "c": 1}, {"a": 4, "b": 4, "c": 3}),
        (2, {"a": 1, "b": 1, "c": 1}, {"c": 2}, {"a": 1, "b": 0, "c": 1}),
        (5, {"a": 0.01, "b": 1000}, {"a": 5}, {"a": 0, "b": 5}),
    ],
    ids=[
        "by weight",
        "largest remainder",
        "lower name",
        "no tie moves a shard",
        "nor does one that arrives",
        "more workers than shards",
        "extremes",
    ],
)
def test_quotas(shards: int, weights: dict[str, float], held: dict[str, int], expected: dict[str, int]) -> None:
    assert quotas(shards, weights, held) == expected
