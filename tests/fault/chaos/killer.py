"""Carries the schedule out on the victims, and keeps what was done."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from fault.chaos.schedule import Fault, What
from fault.chaos.victims import Victim

AT: Final = "fault point "
BREATH: Final = 2.0
"""Seconds that a gate may stay closed until all other faults wait for it too."""
GLANCE: Final = 0.2
"""Seconds between two looks whether they still wait."""
Gate = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Done:
    """One fault as it was carried out; `at` in seconds from the beginning."""

    at: float
    victim: str
    group: str
    what: str
    killed: bool


@dataclass
class Killer:
    """`said` hears of each fault as it happens. Between two of a victim it waits the schedule's time through `pace`."""

    said: Callable[[Done], None]
    pace: float = 1.0
    done: list[Done] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _held: bool = False

    async def torment(self, victim: Victim, faults: Iterable[Fault]) -> None:
        """One fault after another, until cancelled."""
        for fault in faults:
            await self._left_alone(victim, fault.after / self.pace)
            while self._held:
                await self._left_alone(victim, GLANCE)
            await self._suffer(victim, fault)

    async def torment_in_turn(
        self, victims: dict[str, Victim], faults: Iterator[tuple[str, Fault]], gate: Gate
    ) -> None:
        """The same for several, of which one suffers at a time, and is killed only when the gate is open. Where it
        stays closed, all others are left alone until it opens."""
        for name, fault in faults:
            await asyncio.sleep(fault.after / self.pace)
            if fault.what is What.KILL:
                await self._passed(gate)
            await self._suffer(victims[name], fault)

    def kills(self) -> Counter[str]:
        """By group."""
        return Counter(done.group for done in self.done if done.killed)

    def points(self) -> Counter[str]:
        """Fault points that killed, how often each."""
        return Counter(done.what.removeprefix(AT) for done in self.done if done.what.startswith(AT))

    def faults(self) -> Counter[str]:
        """All that were no kills, by group."""
        return Counter(done.group for done in self.done if not done.killed)

    async def _left_alone(self, victim: Victim, seconds: float) -> None:
        """One that dies by itself is started again."""
        while (why := await victim.died_by_itself(seconds)) is not None:
            self._note(victim, AT + why, killed=True)
            await _whole(victim.start())

    async def _passed(self, gate: Gate) -> None:
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(gate())
            await asyncio.wait([opening], timeout=BREATH)
            self._held = True
            try:
                await opening
            finally:
                self._held = False

    async def _suffer(self, victim: Victim, fault: Fault) -> None:
        self._note(victim, str(fault), killed=fault.what is What.KILL)
        await _whole(victim.suffer(fault))

    def _note(self, victim: Victim, what: str, *, killed: bool) -> None:
        done = Done(time.monotonic() - self._began, victim.name, victim.group, what, killed)
        self.done.append(done)
        self.said(done)


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """What has begun is brought to its end, whoever is cancelled: a frozen process must not stay so."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await working
        raise
