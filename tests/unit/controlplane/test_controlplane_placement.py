"""Which worker owns which shard."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from troupe.controlplane.placement import Member, Placement, place


def member(worker: int, instance: int = 0) -> Member:
    return Member(f"w{worker}", f"w{worker}-{instance}", f"host:{7000 + worker}")


MEMBERS = st.builds(member, st.integers(0, 5), st.integers(0, 2))
PRESENT = st.lists(MEMBERS, max_size=6, unique_by=lambda one: one.worker_id)
STEPS = st.lists(st.tuples(PRESENT, st.integers(1, 4)), min_size=1, max_size=8)


def shares(placement: Placement) -> Counter[str]:
    return Counter(shard.owner.worker_id for shard in placement.shards if shard is not None)


def test_nothing_is_placed_before_enough_workers_are_there() -> None:
    empty = Placement.empty(8)
    assert place(empty, [member(0)], 2) is empty


def test_the_first_workers_share_evenly_and_a_late_one_gets_nothing() -> None:
    placed = place(Placement.empty(8), [member(0), member(1), member(2)], 2)
    assert placed.version == 1
    assert shares(placed) == {"w0": 4, "w1": 4}
    assert {shard.epoch for shard in placed.shards if shard} == {1}
    assert place(placed, [member(0), member(1), member(2)], 2) is placed


def test_a_silent_worker_keeps_its_shards() -> None:
    placed = place(Placement.empty(8), [member(0), member(1)], 2)
    assert place(placed, [member(0)], 2) is placed
    assert place(placed, [], 2) is placed


def test_a_new_process_gets_its_workers_shards_under_new_epochs() -> None:
    placed = place(Placement.empty(8), [member(0), member(1)], 2)
    again = place(placed, [member(0), member(1, instance=1)], 2)
    assert again.version == 2
    for before, after in zip(placed.shards, again.shards, strict=True):
        assert before is not None
        assert after is not None
        if before.owner.worker_id == "w0":
            assert after == before
        else:
            assert (after.epoch, after.owner) == (2, member(1, instance=1))


def test_another_address_of_the_same_process_is_no_other_owner() -> None:
    placed = place(Placement.empty(2), [member(0)], 1)
    moved = place(placed, [Member("w0", "w0-0", "elsewhere:1")], 1)
    assert moved.version == 2
    assert {(shard.epoch, shard.owner.address) for shard in moved.shards if shard} == {(1, "elsewhere:1")}


def test_a_fleet_set_to_another_number_of_workers_moves_no_more_than_it_must() -> None:
    two = place(Placement.empty(8), [member(0), member(1)], 2)
    assert place(two, [member(1)], 1).owners() == {"w1"}
    assert place(two, [member(2), member(0)], 1).owners() == {"w0"}, "who owns shards comes before who was there first"
    three = place(two, [member(0), member(1), member(2)], 3)
    assert sorted(shares(three).values()) == [2, 3, 3]
    moved = [number for number in range(8) if three.shards[number] != two.shards[number]]
    assert {getattr(three.shards[number], "owner", None) for number in moved} == {member(2)}
    assert len(moved) == shares(three)["w2"]


@given(st.integers(1, 16), STEPS)
def test_whatever_comes_and_goes(shard_count: int, steps: list[tuple[list[Member], int]]) -> None:
    placement = Placement.empty(shard_count)
    for present, workers in steps:
        before = placement
        placement = place(before, present, workers)
        assert place(placement, present, workers) is placement, "the same again changes nothing"
        assert placement.version == before.version + (placement is not before)
        for old, new in zip(before.shards, placement.shards, strict=True):
            if old is None:
                assert new is None or (new.epoch == 1 and new.owner in present)
                continue
            assert new is not None, "a shard that had an owner has one"
            same_process = old.owner.instance_id == new.owner.instance_id
            assert new.epoch == old.epoch + (not same_process), "the epoch counts owners"
            assert same_process or new.owner in present
        owned = shares(placement)
        if placement.version and owned.keys() != shares(before).keys():
            assert len(owned) == min(workers, shard_count)
            assert max(owned.values()) - min(owned.values()) <= 1
