"""What `B=placement` counts."""

import fleets
import pytest

from bench.placement import ours


def test_moved_and_spread_are_counted_over_all_actors() -> None:
    assert fleets.moved(["a", "a", "b", "b"], ["a", "b", "b", "c"]) == 50
    assert fleets.spread(["a", "a", "a", "b"], 2) == 1.5
    assert fleets.spread(["a", "a"], 2) == 2, "a worker with nothing counts"


def test_naive_modulo_keeps_those_whose_number_stays() -> None:
    # Of 0 to 11 on three workers: 0, 1, 2 stay with four, and with the first of them gone those of worker 1 and 2
    # whose number modulo two, from 1 on, is the same.
    moves = ours.modulo(list(range(12)), 3)
    assert moves.joins == 75
    assert moves.leaves == pytest.approx(100 - 100 * sum(n % 3 == n % 2 + 1 for n in range(12)) / 12)
    assert moves.spread == 1


def test_what_the_quotas_force_is_what_is_above_them_and_what_has_no_worker() -> None:
    assert ours.forced(["a"] * 6 + ["b"] * 2, {"a": 1, "b": 1}) == 2
    assert ours.forced(["a"] * 6 + ["b"] * 2, {"a": 1}) == 2
    assert ours.forced(["a"] * 4 + ["b"] * 4, {"a": 1, "b": 1}) == 0


def test_ours_moves_what_is_forced() -> None:
    moves = ours.placed(ours.hashed(2_000), 4, 0)
    assert moves.shards_joins == (25, 25)
    assert moves.shards_leaves == (32, 32)
    assert moves.joins == pytest.approx(100 / 5, abs=4)
    moved, least = ours.churn(1, 20, 64)
    assert moved == least > 0
