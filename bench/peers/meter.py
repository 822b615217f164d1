"""What every contender is measured with, ours too: each counts its own messages and prints one line of JSON.

A contender is a program `peer.py publish URL QUEUE SECONDS` or `peer.py consume URL QUEUE MESSAGES`; to consume, it
first fills its queue. Only the standard library is used here, so that it runs in the environment of any of them.
"""

import itertools
import json
import sys
import time
from dataclasses import dataclass

PAYLOAD = "x" * 256
"""What each message carries, beside what its framework adds."""
WARM_UP = 1.0
"""Seconds of publishing that are not counted."""
WARM_SHARE = 0.1
"""Share of the consumed messages that are not counted."""


class Publishing:
    """Counts confirms for `seconds`, after the warm-up. Safe to call from threads. Publish like this, as often at once
    as is best: `while measured.sending(): publish(); measured.confirmed()`."""

    def __init__(self, seconds: float) -> None:
        self._confirms = itertools.count(1)
        self._begins = time.perf_counter() + WARM_UP
        self._ends = self._begins + seconds
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)

    def sending(self) -> bool:
        """Whether to publish one more."""
        return time.perf_counter() < self._ends

    def confirmed(self) -> None:
        """One was confirmed."""
        count, now = next(self._confirms), time.perf_counter()
        if self._begins <= now < self._ends:
            self._last = count, now
            if self._first is None:
                self._first = count, now

    def report(self) -> None:
        """Print the measurement. Call once all confirms are in."""
        if self._first is None:
            raise RuntimeError("nothing was confirmed in the measured time")
        _print(next(self._confirms) - 1, self._first, self._last)


class Filling:
    """Publishes so many messages, in the way of `Publishing`, and measures nothing."""

    def __init__(self, messages: int) -> None:
        self._left = iter(range(messages))

    def sending(self) -> bool:
        return next(self._left, None) is not None

    def confirmed(self) -> None:
        pass


class Consuming:
    """Counts handled messages up to `messages`, and times those after the warm-up. Safe to call from threads."""

    def __init__(self, messages: int) -> None:
        self._messages, self._warm = messages, max(1, int(messages * WARM_SHARE))
        self._handled = itertools.count(1)
        self._began = self._ended = 0.0

    def handled(self) -> bool:
        """Call in the handler; True for the last message."""
        count = next(self._handled)
        if count == self._warm:
            self._began = time.perf_counter()
        elif count == self._messages:
            self._ended = time.perf_counter()
            return True
        return False

    def report(self) -> None:
        """Print the measurement."""
        if not self._ended:
            raise RuntimeError("consuming ended before the last message")
        _print(next(self._handled) - 1, (self._warm, self._began), (self._messages, self._ended))


Sending = Publishing | Filling


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    url: str
    queue: str
    messages: int
    """To consume; 0 to publish."""
    seconds: float
    """To publish for; 0 to consume."""


def asked() -> Asked:
    mode, url, queue, amount = sys.argv[1:5]
    if mode not in ("publish", "consume"):
        raise SystemExit(f"no mode {mode!r}: it is publish or consume")
    return Asked(url, queue, int(amount), 0) if mode == "consume" else Asked(url, queue, 0, float(amount))


def _print(messages: int, first: tuple[int, float], last: tuple[int, float]) -> None:
    print(json.dumps({"messages": messages, "counted": last[0] - first[0], "seconds": last[1] - first[1]}), flush=True)
