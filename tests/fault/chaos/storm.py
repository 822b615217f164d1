"""One storm from beginning to end: a fleet, its driver, its killer, and the verdict."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fault.chaos import checker, fleet, recorder
from fault.chaos.checker import Verdict
from fault.chaos.driver import LONGEST, Driver, driving
from fault.chaos.history import Evidence
from fault.chaos.killer import Done, Gate, Killer

FLEETS: Final[dict[str, Callable[[Path, int], AbstractAsyncContextManager[fleet.Stormed]]]] = {
    "servers": fleet.of_servers,
    "embedded": fleet.in_one_process,
}
"""RabbitMQ and Redis, or SQLite in one process."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of a storm. `kills`, by group, are the least that it takes: it goes on until there were so many, and
    `settled` operations, for `patience` seconds more at most."""

    seed: int
    seconds: float
    fleet: str = "servers"
    sessions: int = 200
    senders: int = 6
    rate: float = 60.0
    pace: float = 1.0
    """So many times as many faults as the schedule has by itself."""
    kills: dict[str, int] = field(default_factory=dict)
    all_kills: int = 0
    settled: int = 0
    patience: float = 400.0


@dataclass
class Storm:
    """A storm under way, and what came of it."""

    plan: Plan
    directory: Path
    killer: Killer
    driver: Driver | None = None
    began: float = field(default_factory=time.monotonic)
    between: list[int] = field(default_factory=list)
    """For each kill of a server, what had been settled since the one before in the session with the least of it."""
    verdict: Verdict | None = None

    @property
    def settled(self) -> int:
        return 0 if self.driver is None else self.driver.settled.total()


async def storm(plan: Plan, directory: Path, said: Callable[[Done], None], begun: Callable[[Storm], None]) -> Storm:
    """Rage for as long as planned, heal, and check; `begun` is given the storm when it begins. What was sent, answered,
    applied and recorded is written to `directory`."""
    over = asyncio.Event()
    async with (
        FLEETS[plan.fleet](directory, plan.seed) as stormed,
        driving(
            stormed.gateways,
            random.Random(f"{plan.seed} driver"),
            sessions=plan.sessions,
            senders=plan.senders,
            rate=plan.rate,
        ) as driver,
    ):
        it = Storm(plan, directory, Killer(said, plan.pace), driver)
        begun(it)
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(driver.drive(over))
            tormenting = tasks.create_task(stormed.torment(it.killer, plan.seed, _gate(it, driver)))
            await _rage(it)
            tormenting.cancel()
            await asyncio.wait([tormenting])
            await stormed.heal()
            over.set()
            await asyncio.wait([sending], timeout=LONGEST)
            sending.cancel()
        states, letters, redriven = await driver.conclude()
    calls = recorder.read(directory / "recorded.jsonl")
    evidence = Evidence(list(driver.sent.values()), states, calls, letters, redriven)
    it.verdict = checker.check(evidence)
    evidence.written(directory / "history")
    return it


async def _rage(it: Storm) -> None:
    await asyncio.sleep(it.plan.seconds)
    async with asyncio.timeout(it.plan.patience):
        while not _enough(it):
            await asyncio.sleep(0.2)


def _enough(it: Storm) -> bool:
    kills = it.killer.kills()
    return (
        it.settled >= it.plan.settled
        and kills.total() >= it.plan.all_kills
        and all(kills[group] >= count for group, count in it.plan.kills.items())
    )


def _gate(it: Storm, driver: Driver) -> Gate:
    """Open when something of every session was settled since it was opened last."""
    before: Counter[str] = Counter()

    async def opened() -> None:
        nonlocal before
        while driver.behind(before):
            await asyncio.sleep(0.05)
        it.between.append(min(driver.settled[session] - before[session] for session in driver.sessions))
        before = driver.settled.copy()

    return opened
