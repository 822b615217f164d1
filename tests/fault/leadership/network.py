"""What is between one candidate and the store."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from troupe.chassis.errors import TroupeError, Unavailable
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import KnownWorker, Leadership

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds after which a client of the store gives a call up. The call may be carried out later all the same."""
HEALTHY = 0.05
"""Seconds that a call takes at most, one way, while the network is well."""


class Weather:
    """How the network is now, for everybody."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.bad = False
        self.cut: set[str] = set()
        """Candidates that reach nothing."""

    def way(self) -> float:
        """Seconds that a message is on its way."""
        if self.bad and self._dice.random() < 0.15:
            return self._dice.uniform(0.0, 30.0)
        return self._dice.uniform(0.0, HEALTHY)

    def loses(self, name: str) -> bool:
        return name in self.cut or (self.bad and self._dice.random() < 0.15)


class Machine:
    """What one candidate runs on: a clock that drifts, and a process that may stand still or be dead."""

    def __init__(self, name: str, rate: float) -> None:
        self.name, self._rate = name, rate
        self._runs = asyncio.Event()
        self._runs.set()
        self.dead = False

    @property
    def stopped(self) -> bool:
        return not self._runs.is_set()

    def stop(self) -> None:
        self._runs.clear()

    def go_on(self) -> None:
        self._runs.set()

    async def running(self) -> None:
        """Return once the process runs: nothing in it goes on before."""
        await self._runs.wait()

    def now(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() * self._rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self._rate)
        await self.running()


class Reached:
    """The store, as the candidate on `machine` reaches it: those methods of a RevisionStore that it calls."""

    def __init__(
        self, store: MemoryRevisionStore, machine: Machine, weather: Weather, requests: asyncio.TaskGroup
    ) -> None:
        self._store, self._machine, self._weather, self._requests = store, machine, weather, requests
        self.on_write: Callable[[int], None] = lambda _: None
        """Called with the term of each worker that the store remembers for this candidate."""

    async def leadership(self) -> Leadership:
        return await self._call(self._store.leadership)

    async def lead(self, seen: Leadership, holder: str, address: str, beyond: int = 0) -> Leadership:
        return await self._call(lambda: self._store.lead(seen, holder, address, beyond))

    async def renew(self, held: Leadership) -> Leadership:
        return await self._call(lambda: self._store.renew(held))

    async def resign(self, held: Leadership) -> None:
        await self._call(lambda: self._store.resign(held))

    async def remember_worker(self, worker: KnownWorker, term: int) -> None:
        async def remember() -> None:
            await self._store.remember_worker(worker, term)
            self.on_write(term)

        await self._call(remember)

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self._machine.dead:
            # Of the network, not of the process: it is carried out though the caller gives up, or dies.
            self._requests.create_task(self._carry(work, answer))
        try:
            done, _ = await asyncio.wait([answer], timeout=PATIENCE)
            await self._machine.running()
        finally:
            if not answer.cancel():
                answer.exception()
        if not done:
            raise Unavailable("STORE_UNAVAILABLE", f"no answer for {PATIENCE} s")
        return answer.result()  # type: ignore[no-any-return]

    async def _carry(self, work: Callable[[], Awaitable[Any]], answer: "asyncio.Future[Any]") -> None:
        if self._weather.loses(self._machine.name):
            return
        await asyncio.sleep(self._weather.way())
        try:
            result, error = await work(), None
        except TroupeError as refusal:
            result, error = None, refusal
        if self._weather.loses(self._machine.name):
            return
        await asyncio.sleep(self._weather.way())
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)
