"""The fleet's desired set, changed as a whole: read the current revision, edit it, sync it, again when another was
faster."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from troupe.chassis.errors import Aborted
from troupe.chassis.ids import uuid7
from troupe.cli.clients import ControlPlane
from troupe.resources.content import Diff, diff
from troupe.v1.control_plane_pb2 import RevisionInfo, SyncRequest
from troupe.v1.resource_pb2 import Resource
from troupe.v1.rollout_pb2 import RolloutPolicy

ATTEMPTS = 5
"""A sixth loss in a row means that something syncs without pause."""

Edit = Callable[[Sequence[Resource]], Iterable[Resource]]


@dataclass(frozen=True, slots=True)
class Revised:
    """The revision that holds the edited set, and what the edit changed; an empty difference made no revision."""

    revision: RevisionInfo
    difference: Diff


async def revise(
    control_plane: ControlPlane, edit: Edit, *, dry_run: bool = False, rollout: RolloutPolicy | None = None
) -> Revised:
    """Apply `edit` to the current set. It is called again with the newer set when somebody else synced in between,
    ATTEMPTS times in all; then Aborted. With `dry_run` the server checks and nothing changes. InvalidArgument
    carries the server's violations."""
    for attempt in range(1, ATTEMPTS + 1):
        current = await control_plane.current()
        desired = list(edit(current.config.resources))
        difference = diff(current.config.resources, desired)
        if not difference:
            return Revised(current.revision, difference)
        request = SyncRequest(
            revision_id=uuid7(),
            parent_revision_id=current.revision.revision_id,
            resources=desired,
            validate_only=dry_run,
            rollout=rollout,
        )
        try:
            return Revised(await control_plane.sync(request), difference)
        except Aborted as error:
            if attempt == ATTEMPTS:
                raise Aborted(
                    "CONTENDED",
                    f"others changed the fleet {ATTEMPTS} times while this was applied; nothing of it is stored; "
                    "try again when they are done",
                ) from error
    raise AssertionError("unreachable")
