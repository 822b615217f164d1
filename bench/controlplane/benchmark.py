"""`B=controlplane`: a revision on its way to a hundred workers, and what the control plane holds for two hundred."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from bench.controlplane import fleet
from bench.rows import Row, alone, compared

WORKERS, SETS = 100, (10, 1_000)
MANY_WORKERS, MANY_RESOURCES, CHANGED, WATCHERS = 200, 10_000, 1_000, 50
DEBOUNCE = 0.1
"""Seconds that the control plane waits for a further Sync before it begins to push."""

INCLUDES = f"""\
Included: a `troupe controlplane` process on SQLite, and {WORKERS} and {MANY_WORKERS} workers with a real server of
DataPlaneService each, in {fleet.PROCESSES} processes, that take every revision at once. A revision is on its way from
the answer to Sync until a watcher hears that its rollout is COMPLETE, all workers APPLIED: deciding, storing each step
and telling are in it, and the {DEBOUNCE:g} s in which the control plane waits for a further Sync are not, where there
is a goal. The bare fan-out is the same Apply to the same workers at once from a client that does nothing else, over
connections that are open. No canary, max_unavailable 100 %. Memory is the resident set of the control plane's process.
Not included: what a worker does with a revision, and its health window."""


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds, one for each round."""

    brought: list[float]
    bare: list[float]


def measure(rounds: int, _seconds: float) -> Iterator[list[Row]]:
    """All rows, as each part is done. How much is measured does not depend on the seconds asked for."""
    for count in SETS:
        times = asyncio.run(_brought(rounds, count))
        title = f"{WORKERS} workers, {count:,} resources"
        brought = [1e3 * each for each in times.brought]
        bare = [1e3 * each for each in times.bare]
        yield [
            compared(
                f"{title}, APPLIED",
                "ms",
                [each - 1e3 * DEBOUNCE for each in brought],
                bare,
                "bare fan-out",
                goal=1.5,
                better="lower",
            ),
            alone(f"{title}, from Sync's answer on", "ms", brought, better="lower"),
        ]
    yield asyncio.run(_held(rounds))


async def _brought(rounds: int, count: int) -> _Times:
    times = _Times([], [])
    async with fleet.running(WORKERS) as running:
        await running.sync(fleet.resources(count, 0))
        for number in range(1, rounds + 1):
            resources = fleet.resources(count, number)
            (bare,) = await running.fan_out(resources, 1)
            times.bare.append(bare)
            times.brought.append((await running.sync(resources))[1])
    return times


async def _held(rounds: int) -> list[Row]:
    committed = []
    async with fleet.running(MANY_WORKERS) as running, running.watched(WATCHERS):
        await running.sync(fleet.resources(MANY_RESOURCES, 0))
        for number in range(1, rounds + 1):
            committed.append((await running.sync(fleet.resources(MANY_RESOURCES, number, CHANGED)))[0])
        now, most = running.memory()
    title = f"{MANY_WORKERS} workers, {MANY_RESOURCES:,} resources"
    return [
        alone(f"{title}, Sync of {CHANGED:,} changed", "s", committed, goal=1.0, better="lower"),
        alone(f"{title}, {WATCHERS} watchers, memory", "MB", [now], goal=300.0, better="lower"),
        alone(f"{title}, {WATCHERS} watchers, memory at most", "MB", [most], goal=300.0, better="lower"),
    ]
