"""Where workers and shards lie on the ring."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.addressing import SessionKey
from troupe.controlplane.ring import VIRTUAL_NODES, Ring, shard_position

NAMES = st.text(st.characters(codec=None), max_size=6)
FLEETS = st.dictionaries(NAMES, st.floats(0.01, 1000), min_size=1, max_size=6)


def positions(name: str, count: int) -> list[int]:
    """The rule, written out once more."""
    hashed = [
        hashlib.sha256(b"%d\n%b" % (block, name.encode("utf-8", "surrogatepass"))).digest()
        for block in range(count // 8 + 1)
    ]
    return [int.from_bytes(hashed[node // 8][node % 8 * 4 :][:4]) for node in range(count)]


@given(FLEETS, st.integers(0, 2**32 - 1))
def test_a_position_belongs_to_the_next_point_round_the_circle(weights: dict[str, float], position: int) -> None:
    ring = Ring(weights)
    counts = Counter(ring.owners)
    placed = sorted((at, name) for name in weights for at in positions(name, counts[name]))
    assert ring.owners == [name for _, name in placed]
    assert ring.owner(position) == next((name for at, name in placed if at >= position), placed[0][1])
    for at, name in placed:
        assert ring.owner(at) == name, "its own point is the next one"


def test_a_position_that_two_workers_share_belongs_to_the_lower_name() -> None:
    assert 2907489220 in positions("w159", VIRTUAL_NODES)
    assert 2907489220 in positions("w459", VIRTUAL_NODES)
    for names in (["w159", "w459"], ["w459", "w159"]):
        assert Ring(dict.fromkeys(names, 1.0)).owner(2907489220) == "w159"


@given(FLEETS)
def test_workers_have_positions_by_their_weight(weights: dict[str, float]) -> None:
    counts = Counter(Ring(weights).owners)
    mean = sum(weights.values()) / len(weights)
    assert counts.keys() == weights.keys(), "every worker is on the ring"
    assert sum(counts.values()) <= (VIRTUAL_NODES + 1) * len(weights)
    for name, weight in weights.items():
        assert VIRTUAL_NODES / 2 * weight / mean - 0.51 <= counts[name] <= VIRTUAL_NODES * weight / mean + 1


def test_a_worker_of_another_weight_keeps_its_first_positions() -> None:
    light, heavy = Ring({"a": 1, "b": 1}), Ring({"a": 1.5, "b": 0.5})
    assert Counter(light.owners) == {"a": VIRTUAL_NODES, "b": VIRTUAL_NODES}
    assert Counter(heavy.owners) == {"a": VIRTUAL_NODES * 1.5, "b": VIRTUAL_NODES / 2}
    for position in positions("a", VIRTUAL_NODES):
        assert light.owner(position) == heavy.owner(position) == "a"


@pytest.mark.parametrize(("weight", "scale"), [(1, 1), (1.5, 0.75), (4, 1), (1000, 1000 / 1024), (0.01, 0.64)])
def test_what_counts_is_how_weights_compare(weight: float, scale: float) -> None:
    ring = Ring({"a": weight, "b": weight, "c": weight})
    assert set(Counter(ring.owners).values()) == {round(VIRTUAL_NODES * scale)}


@given(st.text("abc123", min_size=1, max_size=20), st.integers(1, 65_536))
def test_an_actor_lies_beside_its_shard(session: str, count: int) -> None:
    key = SessionKey("default", "default", "clerk", session)
    hashed = int.from_bytes(hashlib.sha256(key.path.encode()).digest()[:4])
    shard = key.shard(count)
    lowest = shard_position(shard, count)
    assert lowest <= hashed < (shard_position(shard + 1, count) if shard + 1 < count else 2**32)
    assert (lowest * count >> 32, (lowest - 1) * count >> 32) == (shard, shard - 1)
