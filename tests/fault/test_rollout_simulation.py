"""Rollouts under seeded faults, in virtual time: fleets that lose, restart and refuse, users in the middle of it, and
leaders that are replaced at any step. See `fault.simulation_rollout`."""

import pytest
from fault.simulation_rollout.rules import OFF
from fault.simulation_rollout.world import simulate

pytestmark = pytest.mark.timeout(300)

SEEDS, CHUNK = 400, 100
ENOUGH = 120
"""Seeds among which each rule that is switched off is missed."""
RARE = {"new process": 2200, "unheard": 1290, "late ones": 170}
"""Where to begin to look, where few schedules need the rule."""


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_promise_is_broken(first: int) -> None:
    runs = map(simulate, range(first, first + CHUNK))

    assert [f"seed {run.seed}: {run.broken}" for run in runs if run.broken] == []


@pytest.mark.parametrize("rule", OFF)
def test_a_rule_that_is_switched_off_is_missed(rule: str) -> None:
    first = RARE.get(rule, 0)
    with OFF[rule]():
        assert any(simulate(seed).broken for seed in range(first, first + ENOUGH))


def test_a_seed_takes_the_same_steps_each_time() -> None:
    first, second = simulate(9), simulate(9)

    assert len(first.trace) > 10
    assert (first.trace, first.counts) == (second.trace, second.counts)


def test_everything_happens() -> None:
    happened: set[str] = set()
    for seed in range(60):
        happened |= set(simulate(seed).counts)

    assert happened >= {"complete", "halted", "ways back", "rolled back", "superseded", "sent", "stable"}
