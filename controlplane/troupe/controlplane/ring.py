"""The consistent-hash ring: where workers and shards lie on a circle of 32-bit positions, and who comes next."""

import hashlib
import math
import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

VIRTUAL_NODES: Final = 128
"""Positions of a worker for each unit of its weight, one at least. The unit is the mean weight rounded up to a power of
two: workers have 64 to 128 positions on average, however heavy they are, and most keep theirs when one joins."""

_BITS: Final = 32
_WORKER: Final = (1 << _BITS) - 1
_BLOCK: Final = struct.Struct(">8I")


class Ring:
    """The positions of a fleet's workers, one at least, in order. The same for the same weights in every process."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        workers = sorted(weights)
        unit = _unit([weights[worker] for worker in workers])
        # A position with its worker in the low bits: one sort orders them, and where two workers share a position the
        # lower name comes first.
        self._points = [
            position << _BITS | number
            for number, worker in enumerate(workers)
            for position in _positions(worker, max(1, round(weights[worker] / unit * VIRTUAL_NODES)))
        ]
        self._points.sort()
        self.owners = [workers[point & _WORKER] for point in self._points]
        """The worker at each point, in the order of the positions."""

    def point(self, position: int) -> int:
        """The index in `owners` of the first point at `position` or after it, round the circle."""
        found = bisect_left(self._points, position << _BITS)
        return found if found < len(self._points) else 0

    def owner(self, position: int) -> str:
        """The worker to which the ring alone gives this position."""
        return self.owners[self.point(position)]


@lru_cache(maxsize=2)
def ring_of(weights: tuple[tuple[str, float], ...]) -> Ring:
    """The ring of these workers; the last ones are kept, as a fleet is placed many times before it changes."""
    return Ring(dict(weights))


def shard_position(shard: int, count: int) -> int:
    """Where a shard lies: at the lowest of the hashes that `SessionKey.shard` maps to it. So shards lie evenly, and an
    actor and its shard side by side."""
    return -(-(shard << _BITS) // count)


def _unit(weights: Sequence[float]) -> float:
    fraction, exponent = math.frexp(sum(weights) / len(weights))
    return math.ldexp(1.0, exponent - 1 if fraction == 0.5 else exponent)


def _positions(worker: str, count: int) -> list[int]:
    """The first `count` of the worker's endless row: one of another weight shares the beginning. Each SHA-256 gives
    eight of them."""
    name = worker.encode("utf-8", "surrogatepass")
    found: list[int] = []
    for block in range(-(-count // 8)):
        found += _BLOCK.unpack(hashlib.sha256(b"%d\n%b" % (block, name)).digest())
    return found[:count]
