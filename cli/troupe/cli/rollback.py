"""`troupe rollback`: a new revision with the content of an earlier one."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from troupe.chassis.errors import FailedPrecondition, NotFound
from troupe.chassis.ids import uuid7
from troupe.cli.clients import control_plane
from troupe.cli.diff_view import diff_document, diff_text
from troupe.cli.invocation import Invocation, alone
from troupe.cli.rollout_options import (
    TIMEOUT,
    CanaryOption,
    MaxFailuresOption,
    MaxUnavailableOption,
    OnFailureOption,
    TimeoutOption,
    WaitOption,
    policy,
)
from troupe.cli.waited import watched
from troupe.resources.content import diff
from troupe.v1.control_plane_pb2 import RevisionInfo, RollbackRequest

RevisionArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="REVISION",
        help="Generation or id of what to go back to; else the newest before the current one that was COMPLETE.",
        show_default=False,
    ),
]


async def rollback(
    invocation: Invocation,
    revision: RevisionArgument = None,
    canary: CanaryOption = None,
    max_unavailable: MaxUnavailableOption = None,
    max_failures: MaxFailuresOption = None,
    on_failure: OnFailureOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = TIMEOUT,  # type: ignore[assignment]  # parsed like what a user types
) -> None:
    """Bring the content of an earlier revision back, as a new one; without canaries unless some are asked for."""
    output = invocation.output
    async with control_plane(invocation.endpoints.server) as fleet:
        kept = await fleet.revisions()
        if not kept:
            raise FailedPrecondition("NO_REVISION", "there is nothing to go back from: nothing was ever applied")
        left = kept[0]
        request = RollbackRequest(
            revision_id=uuid7(),
            from_revision_id=left.revision_id,
            to_revision_id=chosen(revision, kept).revision_id if revision else "",
            rollout=policy(canary, max_unavailable, max_failures, on_failure),
        )
        before = (await fleet.revision(left.revision_id)).config.resources
        made = await fleet.roll_back(request)
        difference = diff(before, (await fleet.revision(made.revision_id)).config.resources)
        if output.human:
            last = f"revision {made.generation} ({_source(made, kept)}) {made.revision_id}"
            parts = [diff_text(difference)] if difference else []
            output.say(Text("\n").join([*parts, Text(last, style="bold")]))
        waited = await watched(output, fleet, made, timeout) if wait else None
    if not output.human:
        rolled_out = waited.document() if waited is not None else {"revision": made}
        output.item(rolled_out | {"changes": diff_document(difference)}, Text)
    if waited is not None:
        waited.judge()


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, rollback, namespaced=False)


def chosen(name: str, kept: Sequence[RevisionInfo]) -> RevisionInfo:
    """The revision with that generation or id. Raises NotFound."""
    for one in kept:
        if name in (str(one.generation), one.revision_id):
            return one
    raise NotFound("UNKNOWN_NAME", f"there is no revision {name}; `troupe get revisions` lists those that are kept")


def _source(made: RevisionInfo, kept: Sequence[RevisionInfo]) -> str:
    same = next((one for one in kept[1:] if one.content_hash == made.content_hash), None)
    return f"the content of revision {same.generation}" if same is not None else f"in place of {kept[0].generation}"
