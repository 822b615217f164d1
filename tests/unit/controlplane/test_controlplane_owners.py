"""Which worker should own each shard."""

import os
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.controlplane.owners import wanted_owners
from troupe.controlplane.quotas import quotas
from troupe.controlplane.ring import ring_of, shard_position

# Few names and near weights, so that workers stay, come back and tie.
NAMES = st.sampled_from(["a", "b", "c", "d", "", "\0", "1\na", "é", "\ud800"])
WEIGHTS = st.sampled_from([1.0, 1.0, 1.0, 2.0, 4.0, 0.01, 1000.0]) | st.floats(0.5, 4)
FLEETS = st.lists(st.dictionaries(NAMES, WEIGHTS, min_size=1, max_size=5), min_size=2, max_size=5)
SHARDS = st.integers(1, 40)

Owners = list[str | None]


def settled(shards: int, fleets: list[dict[str, float]]) -> Owners:
    """Every change carried out before the next."""
    held: Owners = [None] * shards
    for weights in fleets:
        held = wanted_owners(held, frozenset(), weights)
    return held


def loads(owners: Owners) -> Counter[str]:
    return Counter(owner for owner in owners if owner is not None)


def quota_after(before: Owners, weights: dict[str, float]) -> dict[str, int]:
    return quotas(len(before), weights, loads(before))


def forced(before: Owners, weights: dict[str, float]) -> int:
    """The least that must move: what is above a quota, and what has no worker any more."""
    quota = quota_after(before, weights)
    return sum(max(0, load - quota.get(worker, 0)) for worker, load in loads(before).items())


@given(SHARDS, FLEETS)
def test_every_load_is_its_quota(shards: int, fleets: list[dict[str, float]]) -> None:
    before, weights = settled(shards, fleets[:-1]), fleets[-1]
    after = wanted_owners(before, frozenset(), weights)
    assert loads(after) == Counter(quota_after(before, weights))
    assert wanted_owners(after, frozenset(), weights) == after, "and then nothing moves"


@given(SHARDS, FLEETS)
def test_no_more_moves_than_the_quotas_force(shards: int, fleets: list[dict[str, float]]) -> None:
    before, weights = settled(shards, fleets[:-1]), fleets[-1]
    after = wanted_owners(before, frozenset(), weights)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old is not None and old != new]
    assert len(moved) == forced(before, weights)
    quota, load = quota_after(before, weights), loads(before)
    for old, new in moved:
        assert old not in weights or quota[old] < load[old], "only a worker above its quota gives something up"
        assert new is not None
        assert load[new] < quota[new], "and only one below it gets something"


@given(SHARDS, FLEETS)
def test_what_the_ring_gives_to_somebody_else_goes_first(shards: int, fleets: list[dict[str, float]]) -> None:
    before, weights = settled(shards, fleets[:-1]), fleets[-1]
    after = wanted_owners(before, frozenset(), weights)
    ring = ring_of(tuple(sorted(weights.items())))
    own = [ring.owner(shard_position(shard, shards)) == before[shard] for shard in range(shards)]
    for worker in set(before) & weights.keys():
        had = [shard for shard in range(shards) if before[shard] == worker]
        given_up = [shard for shard in had if after[shard] != worker]
        if any(own[shard] for shard in given_up):
            assert all(own[shard] for shard in had if after[shard] == worker)


@given(SHARDS, FLEETS)
def test_a_shard_without_a_worker_goes_to_the_next_on_the_ring_that_has_room(
    shards: int, fleets: list[dict[str, float]]
) -> None:
    before, weights = settled(shards, fleets[:-1]), fleets[-1]
    after = wanted_owners(before, frozenset(), weights)
    ring = ring_of(tuple(sorted(weights.items())))
    room = Counter(quota_after(before, weights))
    room -= loads([old if old == new else None for old, new in zip(before, after, strict=True)])
    for shard, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            continue
        first = ring.point(shard_position(shard, shards))
        round_the_circle = ring.owners[first:] + ring.owners[:first]
        assert new == next(worker for worker in round_the_circle if room[worker])
        room[new] -= 1


@given(SHARDS, FLEETS, st.randoms(use_true_random=False))
def test_handing_over_in_any_order_ends_with_the_same_owners(
    shards: int, fleets: list[dict[str, float]], dice: random.Random
) -> None:
    before, weights = settled(shards, fleets[:-1]), fleets[-1]
    wanted = wanted_owners(before, frozenset(), weights)
    leaving = {shard for shard in range(shards) if before[shard] not in (None, wanted[shard])}
    held = [new if old is None else old for old, new in zip(before, wanted, strict=True)]
    while leaving:
        assert wanted_owners(held, leaving, weights) == wanted
        for shard in dice.sample(sorted(leaving), dice.randint(1, len(leaving))):
            held[shard] = wanted[shard]
            leaving.discard(shard)
    assert held == wanted


@given(SHARDS, FLEETS, st.randoms(use_true_random=False))
def test_what_is_on_its_way_counts_for_nobody(shards: int, fleets: list[dict[str, float]], dice: random.Random) -> None:
    before, weights = settled(shards, fleets[:-1]), fleets[-1]
    leaving = {shard for shard in range(shards) if dice.random() < 0.4}
    kept = [None if shard in leaving else worker for shard, worker in enumerate(before)]
    after = wanted_owners(before, leaving, weights)
    assert loads(after) == Counter(quota_after(kept, weights))
    given_up = [shard for shard, worker in enumerate(kept) if worker not in (None, after[shard])]
    assert len(given_up) == forced(kept, weights)


def test_a_shard_on_its_way_goes_back_where_its_worker_has_room_after_all() -> None:
    before = ["a"] * 12 + ["b"] * 12
    three = wanted_owners(before, frozenset(), {"a": 1, "b": 1, "c": 1})
    leaving = {shard for shard in range(24) if three[shard] == "c"}
    assert loads([before[shard] for shard in leaving]) == {"a": 4, "b": 4}
    assert wanted_owners(before, leaving, {"a": 1, "b": 1}) == before
    assert loads(wanted_owners(before, leaving, {"a": 2, "b": 1})) == {"a": 16, "b": 8}


@given(SHARDS, FLEETS, st.randoms(use_true_random=False))
def test_order_does_not_matter(shards: int, fleets: list[dict[str, float]], dice: random.Random) -> None:
    shuffled = [dict(dice.sample(sorted(weights.items()), len(weights))) for weights in fleets]
    assert settled(shards, fleets) == settled(shards, shuffled)


def test_another_process_comes_to_the_same() -> None:
    program = (
        "from troupe.controlplane.owners import wanted_owners\n"
        "held = [None] * 64\n"
        "for fleet in [{f'w{n}' for n in range(9)}, {f'w{n}' for n in range(3, 20)}, {'w5', 'é', 'w7'}]:\n"
        "    held = wanted_owners(held, {1, 2, 3}, {name: len(name) for name in fleet})\n"
        "    print(ascii(held))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(said) == 1
    assert len(said.pop().splitlines()) == 3


def test_placements_stay_what_they_were() -> None:
    """All control planes of a fleet must agree, those of another version too."""
    first = wanted_owners([None] * 12, frozenset(), {"a": 1, "b": 1, "c": 2})
    assert "".join(map(str, first)) == "bcbabccaccca"
    assert "".join(map(str, wanted_owners(first, frozenset(), {"a": 1, "c": 2, "d": 1}))) == "dcdadccaccca"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, {}),
        ({"a": 0.01}, {"a": 10}),
        ({f"w{number:02}": 1.0 for number in range(20)}, {f"w{number:02}": 1 for number in range(10)}),
        ({"a": 0.01, "b": 1000.0}, {"b": 10}),
        ({"a": 0.01, "b": 0.01, "c": 0.03}, {"a": 2, "b": 2, "c": 6}),
    ],
    ids=["no worker", "one worker", "more workers than shards", "extremes", "all light"],
)
def test_fleets_at_the_edge(weights: dict[str, float], expected: dict[str, int]) -> None:
    assert loads(wanted_owners([None] * 10, frozenset(), weights)) == expected
    assert loads(wanted_owners(["gone"] * 10, frozenset({3}), weights)) == expected


def test_three_hundred_joins_and_leaves_of_weighted_workers_move_what_they_must() -> None:
    dice = random.Random(15)
    weights: dict[str, float] = {"w0": 1.0}
    held = settled(512, [weights])
    moved = bound = 0
    for number in range(1, 301):
        if len(weights) < 2 or dice.random() < 0.55:
            weights |= {f"w{number}": dice.choice([0.5, 1, 2, 4, 8])}
        else:
            del weights[dice.choice(sorted(weights))]
        bound += forced(held, weights)
        after = wanted_owners(held, frozenset(), weights)
        moved += sum(old != new for old, new in zip(held, after, strict=True))
        held = after
    assert moved == bound > 0
