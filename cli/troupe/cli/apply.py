"""`troupe apply`: merge manifests into the fleet's current revision, and follow it to the workers."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from troupe.chassis.errors import InvalidArgument
from troupe.cli.clients import ControlPlane, control_plane
from troupe.cli.desired import Revised, revise
from troupe.cli.diff_view import diff_document, diff_text
from troupe.cli.edge import MISUSED, Refused, complain
from troupe.cli.invocation import Invocation, alone
from troupe.cli.output import counted
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
from troupe.resources import manifest_files
from troupe.resources.content import merge
from troupe.resources.manifest import Declared, located, parse_all
from troupe.resources.manifest_errors import InvalidManifest, ManifestError
from troupe.v1.rollout_pb2 import RolloutPolicy

FilesOption = Annotated[
    list[str],
    typer.Option("--file", "-f", metavar="FILE|DIR|-", help="Manifests: a file, a directory's files, or stdin."),
]
PruneOption = Annotated[bool, typer.Option("--prune", help="Make the files the whole set: remove what they lack.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check, print the difference and change nothing.")]


async def apply(
    invocation: Invocation,
    files: FilesOption,
    prune: PruneOption = False,
    dry_run: DryRunOption = False,
    canary: CanaryOption = None,
    max_unavailable: MaxUnavailableOption = None,
    max_failures: MaxFailuresOption = None,
    on_failure: OnFailureOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = TIMEOUT,  # type: ignore[assignment]  # parsed like what a user types
) -> None:
    """Merge manifests into the current revision; `unchanged` where that makes no difference."""
    declared = declarations(files)
    output, rollout = invocation.output, policy(canary, max_unavailable, max_failures, on_failure)
    async with control_plane(invocation.endpoints.server) as fleet:
        revised = await merged(fleet, declared, prune=prune, dry_run=dry_run, rollout=rollout)
        if output.human:
            output.say(_summary(revised, dry_run))
        waited = None
        if wait and not dry_run and revised.revision.revision_id:
            waited = await watched(output, fleet, revised.revision, timeout)
    if not output.human:
        document = {"changes": diff_document(revised.difference), "dryRun": dry_run}
        rolled_out = waited.document() if waited is not None else {"revision": revised.revision}
        output.item(rolled_out | document, Text)
    if waited is not None:
        waited.judge()


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, apply, namespaced=False)


def declarations(files: Sequence[str]) -> list[Declared]:
    """What the manifests declare. Every mistake is printed on a line of its own, then Refused is raised."""
    try:
        return parse_all(manifest_files.read(files))
    except InvalidManifest as error:
        raise _misused(error.errors) from error


async def merged(
    fleet: ControlPlane,
    declared: Sequence[Declared],
    *,
    prune: bool = False,
    dry_run: bool = False,
    rollout: RolloutPolicy | None = None,
) -> Revised:
    """Bring what is declared into the fleet. The server's violations are printed at their places in the files."""
    resources = [one.resource for one in declared]
    try:
        return await revise(
            fleet, lambda current: merge(current, resources, prune=prune), dry_run=dry_run, rollout=rollout
        )
    except InvalidArgument as error:
        if not error.violations:
            raise
        raise _misused(located(error.violations, declared)) from error


def _misused(errors: Sequence[ManifestError]) -> Refused:
    for error in errors:
        complain(str(error))
    return Refused(MISUSED)


def _summary(revised: Revised, dry_run: bool) -> Text:
    if not revised.difference:
        return Text("unchanged")
    revision = revised.revision
    last = (
        "dry run: this would change, nothing was"
        if dry_run
        else f"revision {revision.generation} ({counted(revision.resource_count, 'resource')}) {revision.revision_id}"
    )
    return Text("\n").join([diff_text(revised.difference), Text(last, style="bold")])
