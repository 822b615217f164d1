"""Leadership under seeded faults, in virtual time. See `fault.leadership`."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from fault.leadership.world import World
from fault.simulation.loop import VirtualLoop

from troupe.controlplane import leadership
from troupe.controlplane.candidacy import Candidacy, Renew, StepDown, Take, Wait
from troupe.controlplane.stores import rules
from troupe.controlplane.stores.port import Leadership

pytestmark = pytest.mark.timeout(300)

SEEDS, CHUNK = 200, 50
ENOUGH = 100
"""Seeds among which each rule that is switched off is missed."""


def simulate(seed: int) -> list[str]:
    loop = VirtualLoop()
    world: list[World] = []

    async def run() -> None:
        world.append(World(seed))
        await world[0].run()

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    return world[0].violations


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with mock.patch.object(leadership, "log"):
        yield


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_one_leads_and_no_other_writes(first: int) -> None:
    assert [(seed, found) for seed in range(first, first + CHUNK) if (found := simulate(seed))] == []


Saw = Callable[[Candidacy, Leadership, float], Take | Renew | Wait | StepDown]
SAW: Saw = Candidacy.saw


def first_sight_counts(self: Candidacy, record: Leadership, now: float) -> Take | Renew | Wait | StepDown:
    """The lease begins when a record was first seen, whatever became of it since."""
    if self.seen is not None and self.held is None and record.holder == self.seen.holder:
        self.seen = record
    return SAW(self, record, now)


def leads_without_asking(self: Candidacy, record: Leadership, now: float) -> Take | Renew | Wait | StepDown:
    """Who finds itself in the record leads, in that term."""
    if self.held is None and record.holder == self._holder:
        self.held, self._renewed = record, now
        return Renew(record)
    return SAW(self, record, now)


OFF: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "the lease begins with each change": lambda: mock.patch.object(Candidacy, "saw", first_sight_counts),
    "who leads again has a new term": lambda: mock.patch.object(Candidacy, "saw", leads_without_asking),
    "a leader stops before others begin": lambda: mock.patch.object(Candidacy, "deadline", 1e9),
    "leading is compared with what was seen": lambda: mock.patch.object(rules, "unchanged"),
    "writes are compared with the term": lambda: mock.patch.object(rules, "in_term"),
    "who stops resigns": lambda: mock.patch.object(leadership.Leader, "_resign", mock.AsyncMock()),
}


@pytest.mark.parametrize("rule", OFF)
def test_a_rule_that_is_switched_off_is_missed(rule: str) -> None:
    with OFF[rule]():
        assert any(simulate(seed) for seed in range(ENOUGH))


def test_a_seed_takes_the_same_steps_each_time() -> None:
    def steps() -> list[object]:
        loop, steps = VirtualLoop(), []

        async def run() -> None:
            world = World(7)
            await world.run()
            steps.extend([*world.reigns, *world.written, asyncio.get_running_loop().time()])

        loop.run_until_complete(run())
        loop.close()
        return steps

    assert steps() == steps()
