"""Running seeds."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from fault.simulation import loop as virtual
from fault.simulation_control.checks import Checks
from fault.simulation_control.world import World

from troupe.controlplane import leadership, line, link, moving, outcomes, reign, rolling, standby, syncs
from troupe.controlplane.placement import Member
from troupe.controlplane.reign import Reign
from troupe.dataplane import config as applying
from troupe.v1.status_pb2 import StatusReport

PROGRESS = 60.0
"""In place of ten minutes."""


@dataclass
class Run:
    """What one seed came to."""

    seed: int
    broken: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def simulate(seed: int) -> Run:
    """Run one seed. The same seed, on the same code, takes the same steps."""
    loop = virtual.VirtualLoop()
    run = Run(seed)
    with _virtual(), ExitStack() as stack:
        stack.callback(loop.close)
        asyncio.set_event_loop(loop)
        stack.callback(asyncio.set_event_loop, None)
        world = World(seed, run.trace)
        stack.enter_context(_listened(world.checks))
        try:
            loop.run_until_complete(world.run())
        except (virtual.Stalled, virtual.Spinning) as error:
            world.checks.broken(f"no end: {error!r}")
        run.broken, run.counts = world.checks.found, dict(world.checks.counts) | dict.fromkeys(world.checks.ended, 1)
    return run


@contextmanager
def _listened(checks: Checks) -> Iterator[None]:
    """What a leader hears, and when it began, is noted."""
    report, register, restore = Reign.report, Reign._register, Reign._restore

    def reported(self: Reign, member: Member, said: StatusReport) -> None:
        checks.heard[member.instance_id, self.term] = checks.time()
        report(self, member, said)

    async def registered(self: Reign, member: Member, *given: Any) -> None:
        checks.heard[member.instance_id, self.term] = checks.time()
        await register(self, member, *given)

    async def restored(self: Reign) -> None:
        await restore(self)
        checks.began[self.term] = checks.time()

    with mock.patch.multiple(Reign, report=reported, _register=registered, _restore=restored):
        yield


@contextmanager
def _virtual() -> Iterator[None]:
    """Threads are steps, ids are counted, ten minutes are one, and nothing is logged."""

    async def inline(work: Any, *given: Any) -> Any:
        await asyncio.sleep(0)
        return work(*given)

    ids = (f"01900000-0000-7000-9000-{number:012}" for number in itertools.count(1))
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(asyncio, "to_thread", inline))
        stack.enter_context(mock.patch.object(rolling, "uuid7", lambda: next(ids)))
        stack.enter_context(mock.patch.object(outcomes, "PROGRESS_DEADLINE", PROGRESS))
        stack.enter_context(mock.patch.object(virtual, "MAX_JUMPS", 3_000_000))
        for module in (leadership, link, line, moving, reign, rolling, standby, syncs, applying):
            stack.enter_context(mock.patch.object(module, "log"))
        yield
