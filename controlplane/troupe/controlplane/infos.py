"""A revision without its resources, as callers see it."""

from troupe.chassis.wire import timestamp
from troupe.controlplane.revisions import Summary
from troupe.v1.control_plane_pb2 import RevisionInfo


def info(about: Summary, current: str) -> RevisionInfo:
    """What there is to say of a revision; `current` is the newest one's id. Without its rollout where it has none."""
    return RevisionInfo(
        revision_id=about.revision_id,
        parent_revision_id=about.parent_revision_id,
        generation=about.generation,
        term=about.term,
        content_hash=about.content_hash,
        created_at=timestamp(about.created_at),
        resource_count=about.resource_count,
        current=about.revision_id == current,
        rollout=about.rollout if about.rollout.stage else None,
    )
