"""Ours and naive modulo over the same actors: what moves, how it is spread, and what the quotas force."""

import hashlib
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import fleets

from troupe.broker.addressing import SessionKey
from troupe.controlplane.owners import wanted_owners
from troupe.controlplane.placement import Candidate, Member, Placement, following
from troupe.controlplane.quotas import quotas

SHARDS_FOR_A_WORKER = 10
SHARDS = 128
"""The default of a deployment, and its least here."""


@dataclass(frozen=True, slots=True)
class Moves:
    """In percent of the actors, and of shards."""

    joins: float
    leaves: float
    spread: float
    shards_joins: tuple[int, int] = (0, 0)
    """Moved, and the least that the quotas allow."""
    shards_leaves: tuple[int, int] = (0, 0)


def hashed(count: int) -> list[int]:
    """The 32-bit number of each actor, which both scale."""
    return [int.from_bytes(hashlib.sha256(actor.encode()).digest()[:4]) for actor in fleets.actors(count)]


def placed(numbers: Sequence[int], count: int, number: int) -> Moves:
    """Ours, with ten shards for each worker, in the fleet of one round."""
    shards = max(SHARDS, SHARDS_FOR_A_WORKER * count)
    shard_of = [number * shards >> 32 for number in numbers]
    *workers, newcomer = fleets.workers(count + 1, number)
    before = _wanted([None] * shards, workers)
    joined, left = _wanted(before, [*workers, newcomer]), _wanted(before, workers[1:])
    return Moves(
        fleets.moved(*([owners[shard] for shard in shard_of] for owners in (before, joined))),
        fleets.moved(*([owners[shard] for shard in shard_of] for owners in (before, left))),
        fleets.spread([before[shard] for shard in shard_of], count),
        (moved(before, joined), forced(before, dict.fromkeys([*workers, newcomer], 1.0))),
        (moved(before, left), forced(before, dict.fromkeys(workers[1:], 1.0))),
    )


def modulo(numbers: Sequence[int], count: int) -> Moves:
    """The hash modulo the number of workers, which are numbered through."""
    before = [number % count for number in numbers]
    # The first leaves, so the others are numbered anew from 0: worker n is n - 1 then.
    left = [number % (count - 1) + 1 for number in numbers]
    joined = [number % (count + 1) for number in numbers]
    return Moves(fleets.moved(before, joined), fleets.moved(before, left), fleets.spread(before, count))


def churn(number: int, changes: int, shards: int) -> tuple[int, int]:
    """Shards moved by so many random joins and leaves of workers of random weights, and the least that the quotas
    allow."""
    dice = random.Random(number)
    weights = {"worker-0": 1.0}
    held = wanted_owners([None] * shards, frozenset(), weights)
    total = least = 0
    for change in range(1, changes + 1):
        if len(weights) < 2 or dice.random() < 0.55:
            weights |= {f"worker-{number}-{change}": dice.choice([0.5, 1.0, 2.0, 4.0, 8.0])}
        else:
            del weights[dice.choice(list(weights))]
        after = wanted_owners(held, frozenset(), weights)
        total, least = total + moved(held, after), least + forced(held, weights)
        held = after
    return total, least


def moved(before: Sequence[str | None], after: Sequence[str | None]) -> int:
    return sum(old != new for old, new in zip(before, after, strict=True))


def forced(before: Sequence[str | None], weights: Mapping[str, float]) -> int:
    """What is above the quotas, and what has no worker any more."""
    load = Counter(owner for owner in before if owner is not None)
    quota = quotas(len(before), weights, load)
    return sum(max(0, shards - quota.get(worker, 0)) for worker, shards in load.items())


def lookups_per_second(count: int) -> float:
    """From an actor's key to its shard and the shard's owner, as a program does it that holds the placement. In CPU
    time, as all times here: nothing is waited for, and what else runs on the machine counts for less."""
    owners = _wanted([None] * SHARDS, fleets.workers(count, 0))
    keys = [SessionKey(*actor.split("/")) for actor in fleets.actors(fleets.LOOKED_UP)]
    for key in keys:
        owners[key.shard(SHARDS)]
    begun = time.process_time()
    for _ in range(fleets.PASSES):
        for key in keys:
            owners[key.shard(SHARDS)]
    return fleets.PASSES * len(keys) / (time.process_time() - begun)


@dataclass(frozen=True, slots=True)
class Placing:
    """Milliseconds of CPU for the whole placement."""

    unknown: float
    """The first one, of workers never seen before,"""
    known: float
    """and again from nothing with the ring known."""
    joins: float
    """One more worker joins: a new ring, and shards revoked."""
    same: float
    """Nothing has changed."""


def placing(shards: int, count: int, number: int) -> Placing:
    *present, newcomer = [
        Candidate(Member(worker, f"{worker}-1", "127.0.0.1:7000")) for worker in fleets.workers(count + 1, number)
    ]
    empty = Placement.empty(shards)
    placement, unknown = _timed(empty, present)
    _, known = _timed(empty, present)
    unchanged, same = _timed(placement, present)
    assert unchanged is placement
    _, joins = _timed(placement, [*present, newcomer])
    return Placing(unknown, known, joins, same)


def _timed(placement: Placement, present: list[Candidate]) -> tuple[Placement, float]:
    alive = {candidate.member.instance_id for candidate in present}
    begun = time.process_time()
    after = following(placement, present, alive, frozenset())
    return after, 1000 * (time.process_time() - begun)


def _wanted(held: Sequence[str | None], workers: Sequence[str]) -> list[str | None]:
    return wanted_owners(held, frozenset(), dict.fromkeys(workers, 1.0))
