"""What a rollout policy may say, and what it says where it says nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.controlplane.policy import NO_CANARY, count, resolved, wrong
from troupe.v1.rollout_pb2 import FailurePolicy, RolloutPolicy, WorkerShare


def workers(number: int) -> WorkerShare:
    return WorkerShare(workers=number)


def percent(number: float) -> WorkerShare:
    return WorkerShare(percent=number)


@pytest.mark.parametrize(
    "policy",
    [
        RolloutPolicy(),
        RolloutPolicy(canary=workers(0), max_unavailable=workers(1), max_failures=0),
        RolloutPolicy(canary=percent(0), max_unavailable=percent(0.01), max_failures=65_536),
        RolloutPolicy(canary=percent(100), max_unavailable=percent(100), on_failure=FailurePolicy.FAILURE_POLICY_HALT),
        RolloutPolicy(canary=workers(65_536), max_unavailable=workers(65_536)),
    ],
)
def test_what_is_in_range_is_taken(policy: RolloutPolicy) -> None:
    assert list(wrong(policy)) == []


@pytest.mark.parametrize(
    "share", [WorkerShare(), workers(65_537), percent(-1), percent(100.1), percent(math.nan), percent(math.inf)]
)
def test_a_share_out_of_range_is_one_violation_of_its_field(share: WorkerShare) -> None:
    found = list(wrong(RolloutPolicy(canary=share, max_unavailable=share)))

    assert [violation.field for violation in found] == ["rollout.canary", "rollout.max_unavailable"]


@pytest.mark.parametrize("share", [workers(0), percent(0)])
def test_somebody_must_be_allowed_to_take_it(share: WorkerShare) -> None:
    assert [violation.field for violation in wrong(RolloutPolicy(max_unavailable=share))] == ["rollout.max_unavailable"]


def test_all_that_is_wrong_is_told_at_once() -> None:
    policy = RolloutPolicy(canary=WorkerShare(), max_unavailable=workers(0), max_failures=65_537)
    policy.on_failure = 9  # type: ignore[assignment]

    assert [violation.field for violation in wrong(policy)] == [
        "rollout.canary",
        "rollout.max_unavailable",
        "rollout.max_failures",
        "rollout.on_failure",
    ]


def test_absent_fields_take_their_defaults() -> None:
    assert resolved(RolloutPolicy()) == RolloutPolicy(
        canary=workers(1),
        max_unavailable=percent(25),
        max_failures=1,
        on_failure=FailurePolicy.FAILURE_POLICY_ROLL_BACK,
    )
    assert resolved(RolloutPolicy(), canary=NO_CANARY).canary == workers(0)


def test_what_is_said_stays() -> None:
    said = RolloutPolicy(
        canary=workers(0), max_unavailable=workers(3), max_failures=0, on_failure=FailurePolicy.FAILURE_POLICY_HALT
    )

    assert resolved(said) == said


@given(st.floats(0, 100, allow_subnormal=False), st.integers(0, 2_000))
def test_percents_are_rounded_up_and_never_beyond_all(share: float, alive: int) -> None:
    found = count(percent(share), alive)

    assert 0 <= found <= alive
    assert found >= alive * share / 100
    assert (found > 0) == (share > 0 and alive > 0)


@pytest.mark.parametrize(
    ("share", "alive", "expected"), [(25, 4, 1), (25, 5, 2), (25, 1, 1), (100, 7, 7), (29, 100, 29)]
)
def test_percents_of_small_fleets(share: float, alive: int, expected: int) -> None:
    assert count(percent(share), alive) == expected
