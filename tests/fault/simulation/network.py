"""What lies between a process and its store and broker: calls are slow, fail, lose their replies, come late."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from troupe.chassis.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely a call goes wrong, and how; and how slow it may be, in seconds."""

    refused: float = 0.0
    reply_lost: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    slowest: float = 0.0


class Link:
    """One process's way to one server."""

    def __init__(self, name: str, dice: random.Random, weather: Weather, log: Callable[[str], None]) -> None:
        self._name, self._dice, self._weather, self._log = name, dice, weather, log
        self._down_until, self._share = 0.0, 1.0
        self.dead = False

    def cut(self, seconds: float, share: float = 1.0) -> None:
        """Nothing gets through for so long, or this share of the calls does not."""
        self._down_until, self._share = asyncio.get_running_loop().time() + seconds, share

    def away(self) -> float:
        """Seconds for which nothing at all gets through."""
        return max(0.0, self._down_until - asyncio.get_running_loop().time()) if self._share == 1.0 else 0.0

    def heal(self) -> None:
        self._down_until, self._weather = 0.0, Weather()

    async def call(self, what: str, work: Callable[[], Awaitable[T]], *, late: bool = True) -> T:
        """Carry `work` out, unless it is lost on the way. A call that is cancelled may be carried out all the same,
        later, if it may be `late`. Raises Unavailable."""
        if self.dead:
            raise asyncio.CancelledError
        dice, weather, loop = self._dice, self._weather, asyncio.get_running_loop()
        fate = dice.random()
        down = loop.time() < self._down_until and dice.random() < self._share
        if down or fate < weather.refused:
            await asyncio.sleep(dice.choice((0.001, 0.5)))
            raise self._lost(what, "refused")
        fate -= weather.refused
        try:
            await asyncio.sleep(self._latency())
        except asyncio.CancelledError:
            if late and dice.random() < 0.5:
                self._later(what, work, dice.choice((0.0, 0.0, 0.01, 2.0)))
            raise
        if self.dead:
            raise asyncio.CancelledError
        if late and fate < weather.late:
            self._later(what, work, dice.choice((0.01, 0.3, 2.0, 8.0)))
            await asyncio.sleep(0.2)
            raise self._lost(what, "comes late")
        fate -= weather.late
        result = await work()
        self._log(f"{self._name} {what}: {result!r:.160}")
        if fate < weather.reply_lost:
            await asyncio.sleep(0.2)
            raise self._lost(what, "reply lost")
        await asyncio.sleep(self._latency())
        return result

    def _latency(self) -> float:
        if self._weather.slow and self._dice.random() < self._weather.slow:
            return self._dice.uniform(0.0, self._weather.slowest)
        return self._dice.uniform(0.0001, 0.001)

    def _later(self, what: str, work: Callable[[], Awaitable[T]], seconds: float) -> None:
        def carry_out() -> None:
            self._log(f"{self._name} {what} carried out late")
            # Scripts of both back ends never wait where that matters: one step brings about all that they do.
            steps = work().__await__()
            try:
                next(steps)
            except StopIteration:
                return
            except Exception as error:
                self._log(f"{self._name} {what} late: {error}")

        asyncio.get_running_loop().call_later(seconds, carry_out)

    def _lost(self, what: str, how: str) -> Unavailable:
        self._log(f"{self._name} {what} {how}")
        return Unavailable("CUT", f"{what}: {how}")
