"""The actor runtime under seeded faults, in virtual time. See `fault.simulation`.

A seed that fails here is looked at with `PYTHONPATH=tests python -m fault.simulation SEED 1 --trace`.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fault.simulation.climate import CLIMATES, Climate, anything, control, letters, restarts, restores, zombies
from fault.simulation.loop import Spinning, Stalled, VirtualLoop
from fault.simulation.restart_rules import OFF as RESTART_OFF
from fault.simulation.rules import OFF
from fault.simulation.run import simulate

pytestmark = pytest.mark.timeout(300)

Kind = Callable[[random.Random], Climate]
SEEDS, CHUNK = 250, 25
ENOUGH = 400
"""Seeds among which each rule that is switched off is missed."""
RESTORED = RESTARTED = REDRIVEN = 50
NEVER = ("left in inbox", "left in broker", "left in memory", "stalled", "spinning", "crash", "did not stop")
"""What a restored backup does not excuse. A turn that it cut the ground from under may fail: its shard begins anew."""
RARE: Mapping[str, tuple[Kind, int]] = {
    "fast path only without a journal": (anything, 160),
    "a take-over ends the turn before": (zombies, 340),
    "a new owner finds outboxes": (zombies, 70),
    "a KILL stays a KILL": (control, 40),
    "due by the store's clock": (control, 80),
    "a redriven copy stands beside the end of the one before": (letters, 0),
    "a letter is redriven when its end is on record": (letters, 0),
    **dict.fromkeys(RESTART_OFF, (restarts, 0)),
    "a RESTART looks whether there are more steps": (restarts, 150),
}
"""In which climate to look, and from which seed on, where the first hundreds of seeds have no schedule that needs the
rule."""


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_promise_is_broken(first: int) -> None:
    broken = [
        f"seed {run.seed}: {violation}"
        for run in map(simulate, range(first, first + CHUNK))
        for violation in run.violations
    ]

    assert broken == []


@pytest.mark.parametrize("rule", OFF)
def test_a_rule_that_is_switched_off_is_missed(rule: str) -> None:
    climates, first = ((RARE[rule][0],), RARE[rule][1]) if rule in RARE else (CLIMATES, 0)
    with OFF[rule]():
        assert any(simulate(seed, climates=climates).violations for seed in range(first, first + ENOUGH))


@pytest.mark.parametrize("first", range(0, RESTORED, CHUNK))
def test_a_fleet_goes_on_after_its_store_was_restored(first: int) -> None:
    """What was promised since the backup is lost; that everything ends, and nothing runs twice at once, is not."""
    stuck = [
        f"seed {run.seed}: {violation}"
        for run in (simulate(seed, climates=(restores,)) for seed in range(first, first + CHUNK))
        for violation in run.violations
        if violation.kind in NEVER
    ]

    assert stuck == []


@pytest.mark.parametrize("first", range(0, RESTARTED, CHUNK))
def test_no_promise_is_broken_where_messages_are_restarted(first: int) -> None:
    runs = [simulate(seed, climates=(restarts,)) for seed in range(first, first + CHUNK)]

    assert [f"seed {run.seed}: {violation}" for run in runs for violation in run.violations] == []
    assert sum(run.counts.get("restarted", 0) for run in runs) > 2 * CHUNK


@pytest.mark.parametrize("first", range(0, REDRIVEN, CHUNK))
def test_no_promise_is_broken_where_letters_are_redriven(first: int) -> None:
    runs = [simulate(seed, climates=(letters,)) for seed in range(first, first + CHUNK)]

    assert [f"seed {run.seed}: {violation}" for run in runs for violation in run.violations] == []
    assert sum(run.counts.get("redriven", 0) for run in runs) > 2 * CHUNK


@pytest.mark.parametrize(
    ("climates", "seed"),
    [
        *[((restarts,), seed) for seed in (1652, 3430, 3580, 5927)],
        ((letters,), 60651),  # what was fenced off was placed again, without end
        (CLIMATES, 120189),  # a deletion that came late left its state
    ],
)
def test_what_was_found_stays_mended(climates: tuple[Kind, ...], seed: int) -> None:
    assert simulate(seed, climates=climates).violations == []


def test_a_seed_takes_the_same_steps_each_time() -> None:
    first, second = (simulate(9, trace=True) for _ in range(2))

    assert len(first.trace) > 100
    assert first.trace == second.trace


def test_seeds_differ_and_faults_happen() -> None:
    runs = [simulate(seed) for seed in range(20)]

    happened = {name for run in runs for name in run.counts}
    assert {"DONE", "DEAD", "CANCELLED", "kills", "deleted", "passed over", "posted", "redriven", "revoked"} <= happened
    assert len({run.counts["turns"] for run in runs}) > 10


def test_time_jumps_to_the_next_timer() -> None:
    async def sleeps() -> list[float]:
        loop = asyncio.get_running_loop()
        waits = [asyncio.create_task(asyncio.sleep(seconds)) for seconds in (3600.0, 0.5)]
        times = []
        for wait in reversed(waits):
            await wait
            times.append(loop.time())
        return times

    assert _run(sleeps()) == [0.5, 3600.0]


def test_who_waits_for_ever_is_told() -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stalled):
        _run(waits())


def test_who_spins_is_told() -> None:
    async def spins() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Spinning):
        _run(spins())


def _run(work: Any) -> Any:
    loop = VirtualLoop()
    task = loop.create_task(work)
    try:
        return loop.run_until_complete(task)
    finally:
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
