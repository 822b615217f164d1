"""The whole control plane under seeded faults, in virtual time: leaders that die or stand still, stores put back from a
backup, users, and workers that hang, refuse, drain, die and come back. See `fault.simulation_control`."""

import pytest
from fault.simulation_control.rules import OFF
from fault.simulation_control.run import simulate

pytestmark = pytest.mark.timeout(300)

SEEDS, CHUNK = 200, 25
CAUGHT = {
    "comparison with the term": (9, "wrote while the store is in term"),
    "order of the store": (134, "does not run what is COMPLETE"),
    "release": (0, "which holds it"),
    "other owner in a new process": (0, "has no owner"),
    "leases": (3, "the placement is not what is wanted"),
    "first lease": (54, "which holds it"),
    "replacing": (1, "which is another's"),
    "later term after a backup": (76, "is CANARY"),
    "settling": (9, "is ROLLING_BACK"),
}
"""A seed that needs the rule, and what is said of it."""


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_promise_is_broken(first: int) -> None:
    runs = map(simulate, range(first, first + CHUNK))

    assert [f"seed {run.seed}: {run.broken}" for run in runs if run.broken] == []


@pytest.mark.parametrize("rule", OFF)
def test_a_rule_that_is_switched_off_is_missed(rule: str) -> None:
    seed, said = CAUGHT[rule]
    with OFF[rule]():
        broken = simulate(seed).broken

    assert any(said in what for what in broken), broken


def test_a_seed_takes_the_same_steps_each_time() -> None:
    first, second = simulate(5), simulate(5)

    assert len(first.trace) > 5
    assert (first.trace, first.counts) == (second.trace, second.counts)


def test_everything_happens() -> None:
    wanted = {
        *("committed", "ways back", "moves", "restored", "replaced", "taken from who was silent"),
        *("COMPLETE", "HALTED", "ROLLED_BACK", "SUPERSEDED"),
    }
    for seed in range(100):
        wanted -= simulate(seed).counts.keys()
        if not wanted:
            break

    assert wanted == set()
