"""How long a model call waits for each of its parts, with one timer for all of them."""

import asyncio
import time
from types import TracebackType
from typing import Final

from troupe.dataplane.llm.endpoint import ModelTimeouts

CONNECT: Final = "connect"
FIRST_TOKEN: Final = "first_token"
BETWEEN_TOKENS: Final = "between_tokens"
TOTAL: Final = "total"


class Patience:
    """Cancels its body, and raises TimeoutError from it, when the phase that it is in takes too long.

    A chunk from the model costs no timer: `touch` moves the deadline, and the one timer, when it fires, sleeps on until
    the deadline as it then is."""

    def __init__(self, timeouts: ModelTimeouts) -> None:
        self._limits = {
            CONNECT: timeouts.connect,
            FIRST_TOKEN: timeouts.first_token,
            BETWEEN_TOKENS: timeouts.between_tokens,
            TOTAL: timeouts.total,
        }
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._phase = CONNECT
        self._due = self._end = 0.0

    async def __aenter__(self) -> "Patience":
        await self._scope.__aenter__()
        self._end = time.monotonic() + self._limits[TOTAL]
        self.enter(CONNECT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)

    def enter(self, phase: str) -> None:
        """The phase begins now."""
        self._phase = phase
        self.touch()
        self._arm()

    def touch(self) -> None:
        """Something came: the phase's time begins again."""
        self._due = time.monotonic() + self._limits[self._phase]

    @property
    def expired(self) -> tuple[str, float] | None:
        """What took too long, and the seconds that it had; None while nothing did."""
        if not self._scope.expired():
            return None
        phase = TOTAL if self._end < self._due else self._phase
        return phase, self._limits[phase]

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait = min(self._due, self._end) - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, wait), self._check)

    def _check(self) -> None:
        if time.monotonic() < min(self._due, self._end):
            self._arm()
        else:
            self._scope.reschedule(asyncio.get_running_loop().time())
