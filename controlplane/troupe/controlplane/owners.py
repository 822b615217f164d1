"""Which worker should own each shard: the consistent-hash ring under exact quotas, with memory.

A worker keeps what it has up to its quota; of what is above it, those shards go first that the ring would give to
somebody else. A shard without a worker goes to the next one on the ring that has room. So every load is its quota,
and no more shards move than the quotas force.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set

from troupe.controlplane.quotas import quotas
from troupe.controlplane.ring import Ring, ring_of, shard_position


def wanted_owners(held: Sequence[str | None], leaving: Set[int], weights: Mapping[str, float]) -> list[str | None]:
    """The worker that should own each shard, by the shard's number. None for all of them where `weights`, above 0 by
    worker, is empty.

    `held` says who owns each shard now, `leaving` which of them are on the way to another owner. Such a shard counts
    for none of the two; it goes back where its own worker has room after all. Handing some of them over does not
    change where the others go. The same input gives the same answer everywhere, in whatever order it comes."""
    if not weights:
        return [None] * len(held)
    kept = defaultdict[str, list[int]](list)
    for shard, worker in enumerate(held):
        if worker is not None and worker in weights and shard not in leaving:
            kept[worker].append(shard)
    left = quotas(len(held), weights, {worker: len(shards) for worker, shards in kept.items()})
    ring = ring_of(tuple(sorted(weights.items())))
    result: list[str | None] = [None] * len(held)
    for worker, shards in kept.items():
        staying = _staying(worker, shards, left[worker], ring, len(held))
        left[worker] -= len(staying)
        for shard in staying:
            result[shard] = worker
    room = _Room(ring, left)
    for shard, worker in enumerate(result):
        if worker is None:
            result[shard] = room.take(held[shard], shard_position(shard, len(held)))
    return result


def _staying(worker: str, shards: list[int], quota: int, ring: Ring, count: int) -> list[int]:
    if len(shards) <= quota:
        return shards
    return sorted(shards, key=lambda shard: ring.owner(shard_position(shard, count)) != worker)[:quota]


class _Room:
    """The places that are left. A point of the ring that was passed because its worker is full is not looked at
    again: each keeps where to look on, and the ways are halved as they are gone."""

    def __init__(self, ring: Ring, left: dict[str, int]) -> None:
        self._ring, self._left = ring, left
        self._on = list(range(len(ring.owners)))

    def take(self, owner: str | None, position: int) -> str:
        """A place with `owner` if it has one, with the next worker on the ring otherwise. There must be one left."""
        if owner is None or not self._left.get(owner):
            owner = self._next(self._ring.point(position))
        self._left[owner] -= 1
        return owner

    def _next(self, point: int) -> str:
        on, owners = self._on, self._ring.owners
        while True:
            while on[point] != point:
                on[point] = on[on[point]]
                point = on[point]
            if self._left[owners[point]]:
                return owners[point]
            on[point] = (point + 1) % len(on)
