"""How fast each caller may call: a token bucket each. Pure: the time is an argument."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_BUCKETS: Final = 10_000
"""Callers remembered, the last ones to call: one that is forgotten starts with a full bucket."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left at a moment."""

    left: float
    at: float

    def take(self, now: float, rate: float, burst: float) -> tuple["Bucket", float]:
        """The bucket after one call at `now` seconds, and 0.0; or, where the call is too early, the bucket as it is
        and the seconds until it is not. `rate` calls flow in each second, up to `burst`, which is at least 1."""
        left = min(burst, self.left + max(0.0, now - self.at) * rate)
        if left >= 1.0:
            return Bucket(left - 1.0, now), 0.0
        return Bucket(left, now), (1.0 - left) / rate


class Rates:
    """The buckets of all callers of one server."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, caller: str, now: float) -> float:
        """0.0 where the caller may call now, else the seconds until it may."""
        bucket = self._buckets.get(caller) or Bucket(self._burst, now)
        self._buckets[caller], wait = bucket.take(now, self._rate, self._burst)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return wait
