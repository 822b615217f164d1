"""How the placement goes on: who gets which shard when, and under which epoch."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.controlplane.owners import wanted_owners
from troupe.controlplane.placement import Assignment, Candidate, Member, Placement, following, past
from troupe.controlplane.quotas import quotas

NOTHING: frozenset[tuple[int, int]] = frozenset()


def member(worker: str, instance: int = 0) -> Member:
    return Member(worker, f"{worker}-{instance}", f"{worker}:7000")


def candidates(*workers: str) -> list[Candidate]:
    return [Candidate(member(worker)) for worker in workers]


def alive(*workers: str) -> set[str]:
    return {member(worker).instance_id for worker in workers}


def split(shards: int, *workers: str) -> Placement:
    return following(Placement.empty(shards), candidates(*workers), alive(*workers), NOTHING)


def assignments(placement: Placement) -> dict[int, Assignment]:
    return {number: shard for number, shard in enumerate(placement.shards) if shard is not None}


def shares(placement: Placement) -> Counter[str]:
    return Counter(shard.owner.worker_id for shard in assignments(placement).values())


def revoked(placement: Placement) -> set[tuple[int, int]]:
    return {(number, shard.epoch) for number, shard in assignments(placement).items() if shard.revoked}


def test_nothing_is_placed_without_a_worker() -> None:
    empty = Placement.empty(8)
    assert following(empty, [], set(), NOTHING) is empty


def test_the_first_workers_get_everything_at_once() -> None:
    placed = split(8, "a", "b")
    assert placed.version == 1
    assert shares(placed) == {"a": 4, "b": 4}
    assert {(shard.epoch, shard.revoked) for shard in assignments(placed).values()} == {(1, False)}
    assert following(placed, candidates("b", "a"), alive("a", "b"), NOTHING) is placed
    assert following(placed, candidates("a", "b"), alive("a", "b"), {(0, 1)}) is placed, "it was not revoked"


def test_weights_decide_the_shares() -> None:
    heavy = [Candidate(member("a"), 3.0), Candidate(member("b"), 1.0)]
    assert shares(following(Placement.empty(8), heavy, alive("a", "b"), NOTHING)) == {"a": 6, "b": 2}


def test_a_worker_that_joins_gets_shards_once_they_are_released() -> None:
    before = split(8, "a")
    revoking = following(before, candidates("a", "b"), alive("a", "b"), NOTHING)
    assert revoking.version == 2
    assert shares(revoking) == {"a": 8}, "still the owner"
    handed_over = sorted(revoked(revoking))
    assert len(handed_over) == 4
    assert {epoch for _, epoch in handed_over} == {1}
    one = following(revoking, candidates("a", "b"), alive("a", "b"), {handed_over[0], (handed_over[1][0], 0)})
    assert one.version == 3
    assert one.shards[handed_over[0][0]] == Assignment(2, member("b"))
    assert revoked(one) == set(handed_over[1:]), "what was released under another epoch is not"
    rest = following(one, candidates("a", "b"), alive("a", "b"), set(handed_over))
    assert rest.version == 4
    assert shares(rest) == {"a": 4, "b": 4}
    assert {number: shard.epoch for number, shard in assignments(rest).items()} == {
        number: 2 if (number, 1) in handed_over else 1 for number in range(8)
    }
    assert following(rest, candidates("a", "b"), alive("a", "b"), set(handed_over)) is rest


def test_what_a_lost_worker_had_goes_to_others_at_once() -> None:
    before = split(9, "a", "b", "c")
    after = following(before, candidates("a", "b"), alive("a", "b"), NOTHING)
    assert Counter(shares(after).values()) == {4: 1, 5: 1}
    for old, new in zip(before.shards, after.shards, strict=True):
        assert old is not None
        assert new is not None
        assert new == old if old.owner != member("c") else new.epoch == 2 and not new.revoked


def test_a_silent_worker_whose_lease_has_not_ended_keeps_everything() -> None:
    before = split(8, "a", "b")
    assert following(before, candidates("a", "b"), alive("a"), NOTHING) is before


def test_a_draining_worker_is_revoked_and_goes() -> None:
    before = split(8, "a", "b")
    draining = following(before, candidates("a"), alive("a", "b"), NOTHING)
    assert {number for number, _ in revoked(draining)} == {
        number for number, shard in assignments(before).items() if shard.owner == member("b")
    }
    assert shares(draining) == {"a": 4, "b": 4}
    assert shares(following(draining, candidates("a"), alive("a", "b"), revoked(draining))) == {"a": 8}
    assert shares(following(draining, candidates("a"), alive("a"), NOTHING)) == {"a": 8}, "gone before it released"


def test_the_last_worker_drains_too_and_its_shards_wait_for_the_next() -> None:
    before = split(4, "a")
    draining = following(before, [], alive("a"), NOTHING)
    assert len(revoked(draining)) == 4
    assert following(draining, [], alive("a"), revoked(draining)) is draining
    assert following(draining, [], set(), NOTHING) is draining
    after = following(draining, candidates("b"), alive("b"), NOTHING)
    assert set(after.shards) == {Assignment(2, member("b"))}


def test_a_fleet_that_is_lost_as_a_whole_keeps_its_shards_for_when_it_is_back() -> None:
    before = split(8, "a", "b")
    assert following(before, [], set(), NOTHING) is before
    assert following(before, candidates("a", "b"), alive("a", "b"), NOTHING) is before


def test_a_revoked_shard_is_never_taken_back_but_comes_back_under_a_new_epoch() -> None:
    before = split(8, "a")
    revoking = following(before, candidates("a", "b"), alive("a", "b"), NOTHING)
    again = following(revoking, candidates("a"), alive("a"), NOTHING)
    assert again is revoking, "its owner may have stopped already"
    back = following(again, candidates("a"), alive("a"), revoked(again))
    assert shares(back) == {"a": 8}
    assert Counter(shard.epoch for shard in assignments(back).values()) == {1: 4, 2: 4}
    assert not revoked(back)


def test_a_new_process_gets_its_workers_shards_under_new_epochs() -> None:
    before = split(8, "a", "b")
    newer = [Candidate(member("a")), Candidate(member("b", 1))]
    for living in ({"a-0", "b-1"}, {"a-0", "b-0", "b-1"}):
        after = following(before, newer, living, NOTHING)
        assert after.version == 2
        for old, new in zip(before.shards, after.shards, strict=True):
            assert old is not None
            assert new == (old if old.owner == member("a") else Assignment(2, member("b", 1)))


def test_another_address_of_the_same_process_is_no_other_owner() -> None:
    before = following(split(4, "a"), candidates("a", "b"), alive("a", "b"), NOTHING)
    elsewhere = replace(member("a"), address="elsewhere:1")
    after = following(before, [Candidate(elsewhere), *candidates("b")], alive("a", "b"), NOTHING)
    assert after.version == before.version + 1
    assert after.shards == tuple(replace(shard, owner=elsewhere) for shard in assignments(before).values())
    assert len(revoked(after)) == 2


def test_a_placement_goes_past_the_epochs_that_the_state_store_has() -> None:
    before = following(split(4, "a"), candidates("a", "b"), alive("a", "b"), NOTHING)
    after = past(before, {0: 7, 1: 1, 2: 0}, member("a"))
    assert [shard.epoch for shard in assignments(after).values()] == [8, 2, 1, 1]
    assert {number for number, _ in revoked(after)} == {number for number, _ in revoked(before)}
    assert past(before, {0: 7}, member("b")) is before


@pytest.mark.parametrize("weight", [0.0, -1.0, 0.009, 1000.5, float("inf"), float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        Candidate(member("a"), weight)


def test_two_processes_of_one_worker_cannot_both_be_candidates() -> None:
    with pytest.raises(ValueError, match="same worker id"):
        following(Placement.empty(1), [Candidate(member("a")), Candidate(member("a", 1))], {"a-0", "a-1"}, NOTHING)


@dataclass
class Fleet:
    """Processes as they are, beside a placement that follows. Every owner holds its shard from when it was placed
    until it releases it, or dies."""

    placement: Placement
    members: dict[str, Member] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    holders: dict[int, Member] = field(default_factory=dict)
    released: set[tuple[int, int]] = field(default_factory=set)
    started: int = 0

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(member, self.weights[name]) for name, member in self.members.items() if name not in self.draining
        ]

    def alive(self) -> set[str]:
        return {member.instance_id for member in self.members.values()}

    def step(self, dice: random.Random) -> None:
        name = dice.choice("abcde")
        match dice.choice(["start", "start", "die", "drain", "weigh", "release", "release", "move"]):
            case "start":
                self.started += 1
                self.members[name] = member(name, self.started)
                self.weights[name] = dice.choice([0.01, 1.0, 1.0, 2.0, 1000.0])
                self.draining.discard(name)
            case "die":
                self.members.pop(name, None)
                self.draining.discard(name)
            case "drain" if name in self.members:
                self.draining.add(name)
            case "weigh":
                self.weights[name] = dice.choice([0.5, 1.0, 3.0])
            case "release":
                self.release({pair for pair in revoked(self.placement) if dice.random() < 0.5})
            case "move" if name in self.members:
                self.members[name] = replace(self.members[name], address=f"{name}:{dice.randint(1, 9)}")

    def release(self, shards: set[tuple[int, int]]) -> None:
        for number, epoch in shards:
            shard = self.placement.shards[number]
            assert shard is not None
            if shard.owner.instance_id in self.alive():
                self.released.add((number, epoch))
                self.holders.pop(number, None)

    def follow(self, dice: random.Random) -> None:
        """One step of the placement, and what must be true of it."""
        before = self.placement
        present = self.candidates()
        self.placement = following(before, dice.sample(present, len(present)), self.alive(), self.released)
        assert following(self.placement, present, self.alive(), self.released) is self.placement
        assert self.placement.version == before.version + (self.placement is not before)
        wanted = wanted_owners(
            [None if shard is None else shard.owner.worker_id for shard in before.shards],
            {number for number, _ in revoked(before)},
            {candidate.member.worker_id: candidate.weight for candidate in present},
        )
        for number, (old, new) in enumerate(zip(before.shards, self.placement.shards, strict=True)):
            self.follow_shard(number, old, new, wanted[number])

    def follow_shard(self, number: int, old: Assignment | None, new: Assignment | None, wanted: str | None) -> None:
        if new is None:
            assert old is None, "a shard that had an owner has one"
            assert wanted is None
            return
        if old is not None and new.epoch == old.epoch:
            assert new.owner.instance_id == old.owner.instance_id, "the epoch counts owners"
            assert new.revoked >= old.revoked, "never taken back"
            assert new.revoked == old.revoked or new.owner.worker_id != wanted
            return
        assert new.epoch == (old.epoch if old is not None else 0) + 1
        assert (new.owner, new.revoked) == (self.members[new.owner.worker_id], False)
        assert new.owner.worker_id == wanted
        holder = self.holders.get(number)
        assert holder is None or holder.instance_id not in self.alive(), "nobody else has it"
        self.holders[number] = new.owner


@given(st.integers(1, 24), st.integers(1, 40), st.randoms(use_true_random=False))
def test_whatever_comes_and_goes(shard_count: int, steps: int, dice: random.Random) -> None:
    fleet = Fleet(Placement.empty(shard_count))
    for _ in range(steps):
        fleet.step(dice)
        if dice.random() < 0.7:
            fleet.follow(dice)
    fleet.follow(dice)
    if not fleet.candidates():
        return
    # Once nothing more happens, what is revoked is released, and every load is its quota.
    fleet.release(revoked(fleet.placement))
    fleet.follow(dice)
    assert not revoked(fleet.placement)
    weights = {candidate.member.worker_id: candidate.weight for candidate in fleet.candidates()}
    assert shares(fleet.placement) == Counter(quotas(shard_count, weights, shares(fleet.placement)))
    assert {shard.owner for shard in assignments(fleet.placement).values()} <= set(fleet.members.values())
