"""How values of the port stand in Redis. Pure. What decodes raises DecodeError, ValueError or TypeError."""

from collections.abc import Sequence

from troupe.controlplane.placement import Assignment, Member, Placement
from troupe.controlplane.revisions import Head, Summary
from troupe.controlplane.stores import rules
from troupe.controlplane.stores.port import KnownWorker, Leadership
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout
from troupe.v1.status_pb2 import Capacity, RevisionAttempt

Field = bytes | str | int


def record(leadership: Leadership) -> tuple[Field, ...]:
    return leadership.term, leadership.holder, leadership.address, leadership.renewals


def leadership(record: Sequence[bytes]) -> Leadership:
    term, holder, address, renewals = record
    return Leadership(int(term), holder.decode(), address.decode(), int(renewals))


def head(term: bytes, generation: bytes, revision_id: bytes) -> Head:
    return Head(int(generation), int(term), revision_id.decode())


def rolled(rollout: Rollout) -> tuple[Field, Field]:
    """The rollout, and whether it is complete."""
    return rollout.SerializeToString(), int(rules.complete(rollout))


def revision_fields(config: ConfigSpec, about: Summary, rollout: Rollout) -> dict[str, Field]:
    return {
        "revision_id": about.revision_id,
        "parent_revision_id": about.parent_revision_id,
        "generation": about.generation,
        "term": about.term,
        "content_hash": about.content_hash,
        "created_at": repr(about.created_at),
        "resource_count": about.resource_count,
        "rollout": rollout.SerializeToString(),
        "config": config.SerializeToString(),
    }


def summary(fields: Sequence[bytes]) -> Summary:
    """From the fields in the order of Summary."""
    revision_id, parent, generation, term, content_hash, created_at, resource_count, rollout = fields
    return Summary(
        revision_id.decode(),
        parent.decode(),
        int(generation),
        int(term),
        content_hash.decode(),
        float(created_at),
        int(resource_count),
        Rollout.FromString(rollout),
    )


def packed(placement: Placement) -> bytes:
    """As workers are told it."""
    return PlaceRequest(
        version=placement.version,
        shard_count=len(placement.shards),
        shards=[
            ShardAssignment(
                shard=number,
                epoch=shard.epoch,
                worker_id=shard.owner.worker_id,
                instance_id=shard.owner.instance_id,
                address=shard.owner.address,
                revoked=shard.revoked,
            )
            for number, shard in enumerate(placement.shards)
            if shard is not None
        ],
    ).SerializeToString()


def placement(version: bytes, content: bytes | None, shard_count: int) -> Placement:
    """Raises IndexError for a shard that there is not."""
    shards: list[Assignment | None] = [None] * shard_count
    for each in PlaceRequest.FromString(content or b"").shards:
        owner = Member(each.worker_id, each.instance_id, each.address)
        shards[each.shard] = Assignment(each.epoch, owner, each.revoked)
    return Placement(int(version), tuple(shards))


def worker_fields(worker: KnownWorker) -> dict[str, Field]:
    fields: dict[str, Field] = {
        "instance_id": worker.member.instance_id,
        "address": worker.member.address,
        "capacity": worker.capacity.SerializeToString(),
        "draining": int(worker.draining),
        "replaced": "\n".join(worker.replaced),
    }
    if worker.last_attempt is not None:
        fields["last_attempt"] = worker.last_attempt.SerializeToString()
    if worker.weight is not None:
        fields["weight"] = repr(worker.weight)
    return fields


def worker(worker_id: bytes, flat: Sequence[bytes]) -> KnownWorker:
    """Raises KeyError where a field is missing."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    attempt, weight = fields.get(b"last_attempt"), fields.get(b"weight")
    return KnownWorker(
        Member(worker_id.decode(), fields[b"instance_id"].decode(), fields[b"address"].decode()),
        None if attempt is None else RevisionAttempt.FromString(attempt),
        Capacity.FromString(fields[b"capacity"]),
        None if weight is None else float(weight),
        fields[b"draining"] != b"0",
        tuple(fields[b"replaced"].decode().splitlines()),
    )
