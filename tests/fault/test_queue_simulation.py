"""Task and delay queues under seeded faults, in virtual time. See `fault.simulation_queues`.

A seed that fails here is looked at with `PYTHONPATH=tests python -m fault.simulation_queues SEED 1 --trace`.
"""

import functools

import pytest
from fault.simulation_queues import embedded_rules
from fault.simulation_queues.embedded import EmbeddedWorld
from fault.simulation_queues.rules import OFF
from fault.simulation_queues.run import Run, simulate

pytestmark = pytest.mark.timeout(300)

SEEDS, CHUNK = 40, 10
CAUGHT = {
    "copy before the ack": (1, "lost"),
    "letter before the ack": (2, "lost"),
    "copy before the letter goes": (1, "lost"),
    "copy before a stray is acked": (5, "lost"),
    "copy before a relayed one is acked": (1, "lost"),
    "sending again": (20, "was confirmed, and is nowhere"),
    "look at returns": (21, "lost"),
    "declaring again": (429, "left"),
    "place for strays": (5, "left: troupe.v1.delay"),
    "confirms between queues": (60, "lost"),
    "refusing of publishes": (60, "lost"),
    "queue for each delay": (2, "late"),
    "time of the server": (4, "early"),
    "count of attempts": (0, "twice"),
    "limit of deliveries": (23, "left"),
    "endless looks at letters": (2, "lost"),
    "latest death": (199, "was given up for 'EXPIRED'"),
    "probing": (9, "left: troupe.v1.task"),
    "probing of its own queues": (1, "left: troupe.v1.relay"),
    "single acks": (0, "lost"),
    "void deliveries": (4, "lost"),
    "heartbeats": (3, "was never confirmed"),
}
"""A seed that needs the rule, and what is said of it."""
EMBEDDED_SEEDS = 60
EMBEDDED_CAUGHT = {
    "commit before the confirm": (0, "lost"),
    "copy before the ack": (11, "lost"),
    "letter before the ack": (1, "lost"),
    "coming back in one step": (0, "lost"),
    "look at the start": (4, "left"),
    "second try to come back": (190, "left"),
    "second try to delete": (21, "left"),
    "beyond the window": (0, "left"),
    "count of attempts": (0, "twice"),
}


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_promise_is_broken(first: int) -> None:
    broken = [
        f"seed {run.seed}: {violation}"
        for run in map(_simulated, range(first, first + CHUNK))
        for violation in run.violations
    ]

    assert broken == []


@pytest.mark.parametrize("rule", OFF)
def test_a_rule_that_is_switched_off_is_missed(rule: str) -> None:
    seed, said = CAUGHT[rule]
    with OFF[rule]():
        violations = simulate(seed).violations

    assert any(said in what for what in violations), violations


def test_the_embedded_broker_breaks_no_promise() -> None:
    runs = [simulate(seed, world=EmbeddedWorld) for seed in range(EMBEDDED_SEEDS)]

    assert [f"seed {run.seed}: {run.violations}" for run in runs if run.violations] == []
    assert {"done again", "purged", "redriven", "kills", "failing writes"} <= {
        name for run in runs for name in run.counts
    }


@pytest.mark.parametrize("rule", embedded_rules.OFF)
def test_a_rule_of_the_embedded_broker_that_is_switched_off_is_missed(rule: str) -> None:
    seed, said = EMBEDDED_CAUGHT[rule]
    with embedded_rules.OFF[rule]():
        violations = simulate(seed, world=EmbeddedWorld).violations

    assert any(said in what for what in violations), violations


def test_a_seed_takes_the_same_steps_each_time() -> None:
    first, second = simulate(5, trace=True), simulate(5, trace=True)

    assert len(first.trace) > 100
    assert (first.trace, first.counts) == (second.trace, second.counts)


def test_everything_happens() -> None:
    wanted = {
        *("done", "done again", "deferred", "returned", "redriven", "purged"),
        *("OUT_OF_RETRIES", "UNDECODABLE", "DELIVERY_LIMIT"),
        *("kills", "leave", "cut in", "cut out", "stop", "vanish", "crash", "clock", "delete", "forget consumers"),
    }
    happened = {name for seed in range(SEEDS) for name in _simulated(seed).counts}

    assert wanted - happened == set()


@functools.cache
def _simulated(seed: int) -> Run:
    return simulate(seed)
