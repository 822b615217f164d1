"""One seed: candidates, faults, and what must hold."""

import asyncio
import contextlib
import itertools
import random
from dataclasses import dataclass, field
from typing import cast

from fault.leadership.network import HEALTHY, Machine, Reached, Weather

from troupe.chassis.errors import Unavailable
from troupe.controlplane.candidacy import LeaderTimes
from troupe.controlplane.leadership import Leader
from troupe.controlplane.placement import Member
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import KnownWorker, RevisionStore

TIMES = LeaderTimes()
DRIFT = 0.02
"""How much faster or slower than time a clock runs, at most."""
CALLS = 8 * HEALTHY
"""Seconds within which a few calls of a healthy store are answered."""
TAKEN_OVER = (TIMES.lease + 2 * TIMES.retry) * (1 + 2 * DRIFT) + CALLS
"""Seconds after a leader's death within which another leads."""
CALM = 60.0


@dataclass
class Reign:
    """One run of a candidate's writing part."""

    term: int
    name: str
    wrote: int = 0


@dataclass
class Candidate:
    machine: Machine
    leader: Leader
    store: Reached
    task: "asyncio.Task[None]" = field(init=False)
    reign: Reign | None = None

    @property
    def acts(self) -> bool:
        """It writes, and is not standing still."""
        return self.reign is not None and not self.machine.stopped


class World:
    """`run` it inside a virtual loop; `violations` are what it found."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.weather = Weather(self.dice)
        self.store = MemoryRevisionStore(1)
        self.candidates: list[Candidate] = []
        self.reigns: list[Reign] = []
        self.written: list[tuple[int, str]] = []
        self.violations: list[str] = []
        self._names = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._requests:
            for _ in range(self.dice.choice((1, 2, 3, 5))):
                self._start()
            watching = asyncio.create_task(self._watch())
            for _ in range(self.dice.randint(4, 16)):
                await asyncio.sleep(self.dice.uniform(0.0, 30.0))
                self._befall()
            await self._calm_down()
            await self._leader_dies()
            await self._leader_stops()
            watching.cancel()
            for candidate in list(self.candidates):
                self._kill(candidate)
            ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in ends:
            self._expect(isinstance(end, asyncio.CancelledError), f"a candidate came to an end: {end!r}")
        self._check_writes()

    # --- what happens

    def _start(self) -> None:
        name = f"candidate-{next(self._names)}"
        machine = Machine(name, self.dice.uniform(1 - DRIFT, 1 + DRIFT))
        reached = Reached(self.store, machine, self.weather, self._requests)
        reached.on_write = lambda term: self.written.append((term, name))
        leader = Leader(cast(RevisionStore, reached), machine, name, f"{name}:1", TIMES)
        candidate = Candidate(machine, leader, reached)
        candidate.task = asyncio.create_task(leader.run(lambda term: self._reign(candidate, term)))
        self._tasks.append(candidate.task)
        self.candidates.append(candidate)

    async def _reign(self, candidate: Candidate, term: int) -> None:
        self._expect(candidate.reign is None, f"{candidate.machine.name} reigns twice at once")
        reign = candidate.reign = Reign(term, candidate.machine.name)
        self.reigns.append(reign)
        try:
            while True:
                with contextlib.suppress(Unavailable):
                    await candidate.store.remember_worker(KnownWorker(Member(reign.name, "", "")), term)
                    reign.wrote += 1
                await candidate.machine.sleep(1.0)
        finally:
            candidate.reign = None

    def _befall(self) -> None:
        candidate = self.dice.choice(self.candidates) if self.candidates else None
        match self.dice.choice(("weather", "weather", "cut", "stop", "kill", "end", "start", "exceed", "heal")):
            case "weather":
                self.weather.bad = not self.weather.bad
            case "cut" if candidate is not None:
                self.weather.cut ^= {candidate.machine.name}
            case "stop" if candidate is not None:
                (candidate.machine.go_on if candidate.machine.stopped else candidate.machine.stop)()
            case "kill" if candidate is not None:
                self._kill(candidate)
                self._start()
            case "end" if candidate is not None and not candidate.machine.stopped:
                self._end(candidate)
                self._start()
            case "start" if len(self.candidates) < 6:
                self._start()
            case "exceed" if candidate is not None:
                candidate.leader.exceed(self.dice.randint(0, len(self.reigns) + 2))
            case "heal":
                self._heal()
            case _:
                pass

    def _kill(self, candidate: Candidate) -> None:
        candidate.machine.dead = True
        self._end(candidate)

    def _end(self, candidate: Candidate) -> None:
        candidate.machine.go_on()
        candidate.task.cancel()
        self.candidates.remove(candidate)

    def _heal(self) -> None:
        self.weather.bad = False
        self.weather.cut.clear()
        for candidate in self.candidates:
            candidate.machine.go_on()

    # --- what must hold

    async def _watch(self) -> None:
        """Two that can write at the same time are kept apart by their terms; that there are two is still wrong, as
        long as processes run and clocks go nearly alike."""
        while True:
            acting = [candidate for candidate in self.candidates if candidate.acts]
            self._expect(len(acting) < 2, f"at the same time: {[candidate.reign for candidate in acting]}")
            await asyncio.sleep(0.25)

    async def _calm_down(self) -> None:
        """Without faults, one of them leads within the time that a takeover may take, and goes on to."""
        self._heal()
        # What was on its way before is still: a late call may take the lead from somebody, once.
        await asyncio.sleep(40.0)
        await asyncio.sleep(TAKEN_OVER)
        before, leading = len(self.reigns), self._leading("after the faults")
        await asyncio.sleep(CALM)
        self._expect(len(self.reigns) == before, f"leadership changed by itself: {self.reigns[before:]}")
        wrote = leading.reign.wrote if leading is not None and leading.reign is not None else 0
        await asyncio.sleep(10.0)
        if leading is not None and leading.reign is not None:
            self._expect(leading.reign.wrote > wrote, "the leader does not write")
        for candidate in self.candidates:
            standing = candidate.leader.standing
            self._expect(
                leading is not None and standing.holder == leading.machine.name, f"who leads is not known: {standing}"
            )

    async def _leader_dies(self) -> None:
        while len(self.candidates) < 3:
            self._start()
        await asyncio.sleep(10.0)
        if (leading := self._leading("before the death")) is None:
            return
        self._kill(leading)
        await asyncio.sleep(TAKEN_OVER)
        self._leading("after a leader's death")

    async def _leader_stops(self) -> None:
        if (leading := self._leading("before the stop")) is None:
            return
        self._end(leading)
        await asyncio.sleep(TIMES.retry * (1 + DRIFT) + CALLS)
        self._leading("after a leader's clean stop")

    def _leading(self, when: str) -> Candidate | None:
        leading = [candidate for candidate in self.candidates if candidate.leader.standing.leads]
        self._expect(len(leading) == 1, f"{when}, {len(leading)} of {len(self.candidates)} lead")
        return leading[0] if leading else None

    def _check_writes(self) -> None:
        names = {reign.term: reign.name for reign in self.reigns}
        self._expect(len(names) == len(self.reigns), "two reigns have one term")
        terms = [term for term, _ in self.written]
        self._expect(terms == sorted(terms), "a term that was over wrote")
        self._expect(all(names.get(term) == name for term, name in self.written), "one wrote in another's term")
        for name in {reign.name for reign in self.reigns}:
            own = [reign.term for reign in self.reigns if reign.name == name]
            self._expect(own == sorted(own), f"{name} went back to an older term")

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.violations.append(f"{asyncio.get_running_loop().time():.2f} s: {otherwise}")
