"""Distributions of waiting times, written as `kind:parameters` in seconds.

`constant:0.1` (or just `0.1`), `normal:mean,deviation`, `lognormal:median,p99`, `exponential:mean`. What would be less
than nothing is nothing: samples are never negative.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol

_Z99 = 2.3263478740408408  # the 99th percentile of the standard normal distribution


class Distribution(Protocol):
    """Where a waiting time comes from."""

    def sample(self, rng: Random) -> float:
        """Seconds, zero or more; the same sequence for a generator of the same seed."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same."""

    seconds: float

    def sample(self, rng: Random) -> float:
        return self.seconds


@dataclass(frozen=True, slots=True)
class Normal:
    """A bell, cut at zero."""

    mean: float
    deviation: float

    def sample(self, rng: Random) -> float:
        return max(0.0, rng.gauss(self.mean, self.deviation))


@dataclass(frozen=True, slots=True)
class LogNormal:
    """What latencies look like: half are below `median`, one in a hundred is above `p99`."""

    median: float
    p99: float

    def sample(self, rng: Random) -> float:
        return rng.lognormvariate(math.log(self.median), math.log(self.p99 / self.median) / _Z99)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless waiting."""

    mean: float

    def sample(self, rng: Random) -> float:
        return rng.expovariate(1.0 / self.mean) if self.mean else 0.0


def parse(text: str) -> Distribution:
    """Read `text`. Raises ValueError with a sentence that says what is allowed."""
    kind, colon, parameters = text.strip().partition(":")
    try:
        numbers = [float(number) for number in (parameters if colon else kind).split(",")]
    except ValueError:
        raise ValueError(_refusal(text)) from None
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"{text!r}: seconds are finite and not negative")
    match (kind if colon else "constant"), numbers:
        case "constant", [seconds]:
            return Constant(seconds)
        case "normal", [mean, deviation]:
            return Normal(mean, deviation)
        case "lognormal", [median, p99]:
            if not 0 < median <= p99:
                raise ValueError(f"{text!r}: a lognormal distribution needs 0 < median <= p99")
            return LogNormal(median, p99)
        case "exponential", [mean]:
            return Exponential(mean)
        case _:
            raise ValueError(_refusal(text))


def _refusal(text: str) -> str:
    return (
        f"{text!r} is no distribution; write constant:SECONDS, normal:MEAN,DEVIATION, lognormal:MEDIAN,P99 "
        "or exponential:MEAN"
    )
