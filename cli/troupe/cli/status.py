"""`troupe status`: the fleet at a glance, once or live."""

import contextlib
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from troupe.cli.clients import ControlPlane, control_plane
from troupe.cli.columns import worker_table
from troupe.cli.fleet_status import FleetStatus, snapshot, watch
from troupe.cli.invocation import Invocation, alone
from troupe.cli.output import counted, screen
from troupe.v1 import status_pb2

WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")]


async def status(invocation: Invocation, watching: WatchOption = False) -> None:
    """The fleet: its revision, and each worker's health, revision, last attempt, shards and load."""
    output = invocation.output
    async with control_plane(invocation.endpoints.server) as fleet:
        if not watching:
            found = await snapshot(fleet)
            output.item({"current": found.current, "workers": list(found.workers)}, lambda: _view(found))
        elif not output.human:
            async for found in watch(fleet):
                output.event({"current": found.current, "workers": list(found.workers)})
        elif output.console.is_terminal:
            await _live(fleet)
        else:
            async for found in watch(fleet):
                output.say(_view(found))


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, status, namespaced=False)


async def _live(fleet: ControlPlane) -> None:
    with Live(console=screen(), auto_refresh=False) as live:
        async with contextlib.aclosing(watch(fleet)) as stream:
            async for found in stream:
                live.update(_view(found), refresh=True)


def _view(found: FleetStatus) -> Group:
    return Group(_headline(found), Text(), worker_table(found.workers))


def _headline(found: FleetStatus) -> Text:
    healthy = sum(one.report.health.state == status_pb2.HEALTH_STATE_HEALTHY for one in found.workers)
    workers = f"{healthy} of {len(found.workers)} workers healthy"
    if not found.current.revision_id:
        return Text(f"no revision yet: `troupe apply -f FILE` makes the first · {workers}")
    current = found.current
    revision = f"revision {current.generation} · {counted(current.resource_count, 'resource')}"
    return Text(f"{revision} · {workers}", style="bold")
