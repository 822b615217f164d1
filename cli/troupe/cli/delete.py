"""`troupe delete`: take one resource out of the fleet's current revision."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from troupe.chassis.errors import InvalidArgument, NotFound
from troupe.cli.clients import control_plane
from troupe.cli.desired import revise
from troupe.cli.diff_view import diff_document, diff_text
from troupe.cli.edge import MISUSED, Refused, complain
from troupe.cli.invocation import Invocation, alone
from troupe.cli.kinds import kind_named
from troupe.cli.names import DEFAULT_NAMESPACE
from troupe.resources.content import Key, key
from troupe.v1.resource_pb2 import Resource

KindArgument = Annotated[str, typer.Argument(metavar="KIND", help="agent, actor, tool or model.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check, print the difference and change nothing.")]


async def delete(invocation: Invocation, kind: KindArgument, name: NameArgument, dry_run: DryRunOption = False) -> None:
    """Remove one resource; what still refers to it is named, and nothing changes then."""
    target = Key(kind_named(kind), invocation.namespace or DEFAULT_NAMESPACE, name)

    def without(current: Sequence[Resource]) -> list[Resource]:
        rest = [resource for resource in current if key(resource) != target]
        if len(rest) == len(current):
            raise NotFound("NO_RESOURCE", f"there is no {target}; `troupe get {kind}` lists what there is")
        return rest

    async with control_plane(invocation.endpoints.server) as fleet:
        try:
            revised = await revise(fleet, without, dry_run=dry_run)
        except InvalidArgument as error:
            for violation in error.violations:
                complain(f"{violation.field.replace(' ', ': ', 1)}: {violation.description}; change that first")
            if not error.violations:
                raise
            raise Refused(MISUSED) from error
    last = "dry run: this would change, nothing was" if dry_run else f"revision {revised.revision.generation}"
    invocation.output.item(
        {"revision": revised.revision, "changes": diff_document(revised.difference), "dryRun": dry_run},
        lambda: Text("\n").join([diff_text(revised.difference), Text(last, style="bold")]),
    )


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, delete)
