"""What is between processes: calls that are late, lost or carried out twice, and hosts that are cut off."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fault.leadership.network import Machine, Reached, Weather

from troupe.chassis.errors import TroupeError, Unavailable

T = TypeVar("T")

AGAIN = 0.1
"""How often a call is carried out twice while the network is bad."""
KEPT_ALIVE = 12.0
"""Seconds after which the end of a stream notices that the other one is cut off."""


class StoreSeen(Reached):
    """The whole revision store, as the control plane on one machine reaches it: through one connection, so that a call
    that was given up is not carried out after a later one."""

    in_order = True
    _serial = _carried_out = 0

    @property
    def shard_count(self) -> int:
        return self._store.shard_count

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *given, **named: self._call(lambda: method(*given, **named))

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        self._serial = serial = self._serial + 1

        async def carried() -> T:
            if serial < self._carried_out and self.in_order:
                raise Unavailable("STORE_UNAVAILABLE", "its connection is gone")
            self._carried_out = max(serial, self._carried_out)
            return await work()

        return await super()._call(carried)


class Network:
    """Calls between control planes, workers and users. A call that is on its way is carried out whatever becomes of
    its caller."""

    def __init__(self, dice: random.Random, weather: Weather, requests: asyncio.TaskGroup) -> None:
        self._dice, self.weather, self._requests = dice, weather, requests

    def cut(self, *names: str) -> bool:
        """Whether one of them is cut off."""
        return not self.weather.cut.isdisjoint(names)

    async def call(
        self, source: str, target: str, handler: Callable[[], Awaitable[T]], timeout: float, here: Callable[[], bool]
    ) -> T:
        """What `handler` answers at `target`, where somebody is `here` when the call comes. Raises what it does, and
        Unavailable where no answer comes in time."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._requests.create_task(self._carried(source, target, handler, answer, here))
        if self.weather.bad and self._dice.random() < AGAIN:
            nobody: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            self._requests.create_task(self._carried(source, target, handler, nobody, here))
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError as error:
            raise Unavailable("TIMEOUT", f"{target} gave no answer for {timeout:g} s") from error

    async def _carried(
        self,
        source: str,
        target: str,
        handler: Callable[[], Awaitable[Any]],
        answer: "asyncio.Future[Any]",
        here: Callable[[], bool],
    ) -> None:
        if self.cut(source, target) or self.weather.loses(source):
            return
        await asyncio.sleep(self.weather.way())
        if not here():
            self._answered(answer, Unavailable("UNREACHABLE", f"nobody listens at {target}"))
            return
        try:
            result: Any = await handler()
        except TroupeError as refusal:
            result = refusal
        if self.cut(source, target) or self.weather.loses(source):
            return
        await asyncio.sleep(self.weather.way())
        self._answered(answer, result)

    def _answered(self, answer: "asyncio.Future[Any]", result: Any) -> None:
        if answer.done():
            return
        if isinstance(result, TroupeError):
            answer.set_exception(result)
            answer.exception()
        else:
            answer.set_result(result)


__all__ = ["KEPT_ALIVE", "Machine", "Network", "StoreSeen", "Weather"]
