"""Ids that sort by the time of their making: UUIDv7 of RFC 9562."""

import secrets
import threading
import time
from collections.abc import Callable

_TAIL = 74
"""Bits beside the milliseconds, the version and the variant."""


class Uuid7:
    """A source of UUIDv7, each greater than the one before, also within a millisecond and when the clock goes back.

    Within a millisecond the random tail grows by a random step (RFC 9562, section 6.2, method 2). `now` gives
    milliseconds since the epoch, `random` as many random bits as it is asked for. Threads may share one source.
    """

    def __init__(self, now: Callable[[], int], random: Callable[[int], int]) -> None:
        self._now = now
        self._random = random
        self._lock = threading.Lock()
        self._millis = -1
        self._tail = 0

    def __call__(self) -> str:
        with self._lock:
            millis = self._now()
            if millis > self._millis:
                self._millis, self._tail = millis, self._random(_TAIL - 1)
            else:
                self._tail += 1 + self._random(32)
                if self._tail >> _TAIL:
                    self._millis, self._tail = self._millis + 1, self._random(_TAIL - 1)
            return _text(self._millis, self._tail)


def _text(millis: int, tail: int) -> str:
    high, low = tail >> 62, tail & (1 << 62) - 1
    digits = f"{millis << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


uuid7 = Uuid7(now=lambda: time.time_ns() // 1_000_000, random=secrets.randbits)
"""A new UUIDv7 as text, lower case with dashes; strictly increasing within this process."""
