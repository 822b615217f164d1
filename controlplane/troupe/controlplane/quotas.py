"""How many shards each worker is to have."""

from collections.abc import Mapping
from typing import Final

_SCALE: Final = 1 << 40


def quotas(shards: int, weights: Mapping[str, float], held: Mapping[str, int]) -> dict[str, int]:
    """The share of each worker by weight, by largest remainder: the whole part of its exact share, and one more for
    those of the largest remainders until all are given. Of equal remainders the worker that would have to give up a
    shard otherwise comes first, by what it has in `held`; then the lower name. So no tie moves a shard, and a shard
    that reaches the worker it was meant for changes no quota.

    They add up to `shards`; empty where there are no workers. Weights are above 0; arithmetic is in whole numbers, so
    that it comes out the same everywhere."""
    exact = {worker: int(weight * _SCALE) for worker, weight in weights.items()}
    total = sum(exact.values())
    result: dict[str, int] = {}
    ranked = []
    for worker, weight in exact.items():
        whole, remainder = divmod(shards * weight, total)
        result[worker] = whole
        ranked.append((-remainder, held.get(worker, 0) <= whole, worker))
    ranked.sort()
    for _, _, worker in ranked[: shards - sum(result.values()) if ranked else 0]:
        result[worker] += 1
    return result
