"""Log lines about what is tried again and again: one where it begins to fail, and not one for each try."""

from collections.abc import Callable
from typing import Any, Final

import structlog

AGAIN: Final = 60.0
"""Seconds after which what still fails, or fails and works by turns, is told again."""

log = structlog.get_logger()


class Outage:
    """Of one thing that is tried until it works. Belongs to one thread."""

    def __init__(self, event: str, now: Callable[[], float]) -> None:
        self._event, self._now = event, now
        self._since: float | None = None
        self._told: float | None = None
        self._shown = False
        self._failures = 0

    def failed(self, error: object, **fields: Any) -> None:
        """A try failed. A warning, unless there was one less than AGAIN seconds ago; it counts the failures since."""
        now = self._now()
        if self._since is None:
            self._since, self._shown = now, False
        self._failures += 1
        if self._told is None or now - self._told >= AGAIN:
            log.warning(self._event, error=str(error), failures=self._failures, **fields)
            self._told, self._shown, self._failures = now, True, 0

    def over(self) -> None:
        """A try worked. Told where it was told that one had failed."""
        if self._since is not None and self._shown:
            log.info("works again", after=self._event, seconds=round(self._now() - self._since, 1))
        self._since = None


class Outages(dict[tuple[str, str], Outage]):
    """By event, and by what it is that was tried: a few, known in advance. Belongs to one thread."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now

    def __missing__(self, key: tuple[str, str]) -> Outage:
        made = self[key] = Outage(key[0], self._now)
        return made
