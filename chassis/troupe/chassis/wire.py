"""Seconds as floats here, Timestamps and Durations on the wire."""

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

NANOS = 1_000_000_000


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch, UTC, to the nearest nanosecond. Raises OverflowError or ValueError when not finite."""
    whole = math.floor(seconds)
    nanos = round((seconds - whole) * NANOS)
    if nanos == NANOS:
        return Timestamp(seconds=whole + 1)
    return Timestamp(seconds=whole, nanos=nanos)


def duration(seconds: float) -> Duration:
    """To the nearest nanosecond; negative ones have both fields negative, as the contract of Duration demands.
    Raises OverflowError or ValueError when not finite."""
    whole = math.trunc(seconds)
    nanos = round((seconds - whole) * NANOS)
    if abs(nanos) == NANOS:
        return Duration(seconds=whole + nanos // NANOS)
    return Duration(seconds=whole, nanos=nanos)


def seconds(message: Timestamp | Duration) -> float:
    """The inverse of both, exact to what a float can hold. An absent field reads as 0.0: ask `HasField` first."""
    return message.seconds + message.nanos / NANOS
