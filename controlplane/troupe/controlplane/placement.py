"""Which worker owns which shard, as a function of the placement before and the workers that are there.

Shards are split evenly over the first workers, as soon as as many have registered as the fleet is set to have.
After that nothing moves by itself: not when a worker is silent, not when another joins. A process that starts again
under its worker's name is another owner: it gets that worker's shards under new epochs. Only where the number of
workers that the fleet is set to have changes are shards split anew, and then no more of them move than must.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

MAX_SHARDS = 65_536


@dataclass(frozen=True, slots=True)
class Member:
    """One process of one worker, and `host:port` where it serves."""

    worker_id: str
    instance_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """One shard's owner. The epoch counts its owners, from 1 on."""

    epoch: int
    owner: Member


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


def place(previous: Placement, present: Sequence[Member], workers: int) -> Placement:
    """The placement that follows when `present` are the workers at hand, in the order in which they registered, and
    the fleet is set to have `workers` of them. `previous` itself where nothing changes."""
    shards = previous.shards
    wanted = min(workers, len(shards))
    owners = previous.owners()
    if len(owners) != wanted and len(present) >= wanted:
        chosen = sorted(present, key=lambda member: member.worker_id not in owners)[:wanted]
        shards = _split(shards, chosen)
    shards = _renewed(shards, {member.worker_id: member for member in present})
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


def _renewed(shards: tuple[Assignment | None, ...], present: dict[str, Member]) -> tuple[Assignment | None, ...]:
    return tuple(
        _given(shard, present.get(shard.owner.worker_id, shard.owner)) if shard is not None else None
        for shard in shards
    )


def _split(shards: tuple[Assignment | None, ...], chosen: Sequence[Member]) -> tuple[Assignment | None, ...]:
    """Evenly, each chosen worker keeping what it has up to its share."""
    share, rest = divmod(len(shards), len(chosen))
    room = {member.worker_id: share + (index < rest) for index, member in enumerate(chosen)}
    result: list[Assignment | None] = list(shards)
    homeless = []
    for number, shard in enumerate(shards):
        if shard is not None and room.get(shard.owner.worker_id, 0):
            room[shard.owner.worker_id] -= 1
        else:
            homeless.append(number)
    for number in homeless:
        owner = max(chosen, key=lambda member: room[member.worker_id])
        room[owner.worker_id] -= 1
        result[number] = _given(shards[number], owner)
    return tuple(result)


def _given(shard: Assignment | None, owner: Member) -> Assignment:
    if shard is None:
        return Assignment(1, owner)
    same = (shard.owner.worker_id, shard.owner.instance_id) == (owner.worker_id, owner.instance_id)
    return replace(shard, owner=owner) if same else Assignment(shard.epoch + 1, owner)
