"""Faults come in the order that they were ordered in, then by chance."""

from random import Random

import pytest

from troupe.llm_sim.errors import ApiError
from troupe.llm_sim.faults import Fault, FaultKind, FaultOrder, FaultPlan


def test_without_orders_and_chance_nothing_fails() -> None:
    plan = FaultPlan()

    assert [plan.take(Random(1)) for _ in range(100)] == [None] * 100


def test_an_order_is_for_the_next_so_many_requests_and_the_next_order_follows() -> None:
    plan = FaultPlan()
    plan.order(FaultOrder(FaultKind.RATE_LIMIT, count=2))
    plan.order(FaultOrder(FaultKind.CUT, after=7))

    taken = [plan.take(Random(1)) for _ in range(4)]

    assert [fault and fault.kind for fault in taken] == ["429", "429", "cut", None]
    assert taken[2] == FaultOrder(FaultKind.CUT, after=7)


def test_what_is_left_of_an_order_can_be_seen_and_cleared() -> None:
    plan = FaultPlan()
    plan.order(FaultOrder(FaultKind.RATE_LIMIT, retry_after=2, count=3))
    plan.take(Random(1))

    assert plan.orders == [FaultOrder(FaultKind.RATE_LIMIT, retry_after=2, count=2)]
    plan.clear()
    assert plan.orders == []
    assert plan.take(Random(1)) is None


def test_orders_have_a_bound() -> None:
    plan = FaultPlan()
    for _ in range(FaultPlan.LONGEST):
        plan.order(FaultOrder(FaultKind.CUT))

    with pytest.raises(ApiError, match="1000 orders wait already"):
        plan.order(FaultOrder(FaultKind.CUT))


def test_chance_has_its_share_and_repeats_with_the_seed() -> None:
    plan = FaultPlan(0.25, [FaultKind.CUT, FaultKind.HALF])

    taken = [plan.take(rng) for rng in [Random(3)] for _ in range(4000)]
    again = [plan.take(rng) for rng in [Random(3)] for _ in range(4000)]

    failed = [fault.kind for fault in taken if fault]
    assert len(failed) == pytest.approx(1000, rel=0.1)
    assert failed.count(FaultKind.CUT) == pytest.approx(500, rel=0.15)
    assert taken == again


def test_a_rate_limit_says_when_to_come_back_in_whole_seconds_and_exactly() -> None:
    error = Fault(FaultKind.RATE_LIMIT, retry_after=1.2).error()

    assert error
    assert error.status == 429
    assert error.headers() == {"Retry-After": "2", "retry-after-ms": "1200"}


def test_every_kind_is_either_an_error_or_happens_to_the_connection() -> None:
    errors = {kind: error.status for kind in FaultKind if (error := Fault(kind).error())}

    assert errors == {FaultKind.RATE_LIMIT: 429, FaultKind.SERVER_ERROR: 500, FaultKind.OVERLOADED: 503}
