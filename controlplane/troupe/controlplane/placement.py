"""Which worker owns which shard, as a function of the placement before and of the workers that are there.

`wanted_owners` says who should own each shard; `following` is the next step on the way there. No shard leaves an owner
that is alive but by being revoked and released first, and each change of an owner comes with a new epoch. An owner is
one process of a worker: one that starts again under its worker's name is another owner, and gets that worker's shards
under new epochs.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, replace

from troupe.controlplane.owners import wanted_owners
from troupe.controlplane.weights import HEAVIEST, LIGHTEST

MAX_SHARDS = 65_536


@dataclass(frozen=True, slots=True)
class Member:
    """One process of one worker, and `host:port` where it serves."""

    worker_id: str
    instance_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that may own shards, and its weight, LIGHTEST to HEAVIEST (ValueError outside)."""

    member: Member
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not LIGHTEST <= self.weight <= HEAVIEST:
            raise ValueError(f"{self.member.worker_id} has weight {self.weight}, not {LIGHTEST:g} to {HEAVIEST:g}")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One shard's owner. The epoch counts its owners, from 1 on. A revoked shard is still its owner's, who hands it
    over; its next owner gets it under the next epoch, once it is released or the owner is lost."""

    epoch: int
    owner: Member
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """The owner of each shard, by its number; None where it has had none yet. The version grows by one with each
    change, from 0 for the placement of nothing."""

    version: int
    shards: tuple[Assignment | None, ...]

    @staticmethod
    def empty(shard_count: int) -> "Placement":
        """Nothing is placed yet."""
        return Placement(0, (None,) * shard_count)

    def owners(self) -> frozenset[str]:
        """The ids of the workers that own a shard."""
        return frozenset(shard.owner.worker_id for shard in self.shards if shard is not None)


def following(
    previous: Placement, candidates: Collection[Candidate], alive: Set[str], released: Set[tuple[int, int]]
) -> Placement:
    """The next placement; `previous` itself where nothing changes. Asked again with its own answer it changes nothing.

    `candidates` are the workers that may own shards, at most one process of each worker id (ValueError else): all whose
    lease has not ended, silent ones included, but for those that drain or are stuck. `alive` are the instance ids whose
    lease has not ended, draining and stuck ones included; an earlier process of a candidate's worker counts as gone in
    any case. `released` are the shards, each with its epoch, that were handed over since they were revoked; a pair for
    another epoch does nothing.

    A shard that nobody had, whose owner is gone, or that is released goes to its wanted owner under the next epoch. One
    that should have another owner than it has is revoked, in its epoch, and stays so: should it remain where it is
    after all, it does so under a new epoch. A new address of an owner changes no epoch. Where there is no candidate
    nobody gets a shard, and those who are alive are to give theirs up: when all are stuck, better name them all.

    The caller decides when the first split is: a fleet that waits for so many workers asks once they have registered.
    It takes milliseconds for 4,096 shards, and tens of them when the workers have changed: ask when something has
    changed, not at each renewal of a lease."""
    members = {candidate.member.worker_id: candidate.member for candidate in candidates}
    weights = {candidate.member.worker_id: candidate.weight for candidate in candidates}
    if len(members) < len(candidates):
        raise ValueError("two candidates have the same worker id")
    wanted = wanted_owners(
        [shard.owner.worker_id if shard is not None else None for shard in previous.shards],
        {number for number, shard in enumerate(previous.shards) if shard is not None and shard.revoked},
        weights,
    )
    shards = tuple(
        _next(
            shard,
            _holder(number, shard, members, alive, released) if shard is not None else None,
            members[worker] if worker is not None else None,
        )
        for number, (shard, worker) in enumerate(zip(previous.shards, wanted, strict=True))
    )
    return previous if shards == previous.shards else Placement(previous.version + 1, shards)


def past(previous: Placement, refused: Mapping[int, int], member: Member) -> Placement:
    """The placement that follows when the state store refuses `member` on these shards, each with the store's epoch:
    it keeps those that it owns under no higher epoch, under the next one. This happens where the placement is older
    than the store: one of them came from a backup. `previous` itself where nothing changes."""
    shards = tuple(
        replace(shard, epoch=refused[number] + 1)
        if shard is not None and shard.owner == member and refused.get(number, 0) >= shard.epoch
        else shard
        for number, shard in enumerate(previous.shards)
    )
    return previous if shards == previous.shards else Placement(previous.version + 1, shards)


def _holder(
    number: int,
    shard: Assignment,
    members: Mapping[str, Member],
    alive: Set[str],
    released: Set[tuple[int, int]],
) -> Member | None:
    """Who has the shard, so that nobody else may; as it is reached now."""
    newest = members.get(shard.owner.worker_id, shard.owner)
    if newest.instance_id != shard.owner.instance_id:
        return None
    if newest is shard.owner and newest.instance_id not in alive:
        return None
    return None if shard.revoked and (number, shard.epoch) in released else newest


def _next(shard: Assignment | None, holder: Member | None, wanted: Member | None) -> Assignment | None:
    if holder is None or shard is None:
        return shard if wanted is None else Assignment(shard.epoch + 1 if shard is not None else 1, wanted)
    return Assignment(shard.epoch, holder, shard.revoked or holder != wanted)
