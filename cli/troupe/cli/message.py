"""`troupe message`: what became of a message."""

from typing import Annotated

import typer

from troupe.cli import durations, names
from troupe.cli.clients import gateway
from troupe.cli.edge import Refused
from troupe.cli.fate import settled_well, status_view
from troupe.cli.invocation import Invocation, group
from troupe.cli.spinner import waiting

MessageArgument = Annotated[str, typer.Argument(metavar="AGENT/SESSION/ID", help="The message.", show_default=False)]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", parser=durations.parse, metavar="DURATION", help="How long to wait, at most 1h.")
]


async def show(invocation: Invocation, message: MessageArgument) -> None:
    """Where a message stands now."""
    ref = names.message(message, invocation.namespace)
    async with gateway(invocation.endpoints.gateway) as worker:
        status = await worker.message(ref)
    invocation.output.item(status, lambda: status_view(status))


async def wait(
    invocation: Invocation,
    message: MessageArgument,
    timeout: TimeoutOption = "60s",  # type: ignore[assignment]  # parsed like what a user types
) -> None:
    """Wait until a message is settled; fails unless it has an answer by then."""
    ref = names.message(message, invocation.namespace)
    async with gateway(invocation.endpoints.gateway) as worker, waiting(invocation.output, "waiting for its fate"):
        status = await worker.message(ref, timeout)
    invocation.output.item(status, lambda: status_view(status))
    if not settled_well(status):
        raise Refused


def commands(_name: str) -> typer.Typer:
    """This module's commands."""
    return group("What became of a message.", {"show": show, "wait": wait})
