"""`troupe status`: the fleet at a glance, once or live."""

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from troupe.cli import rollout
from troupe.cli.clients import ControlPlane, control_plane
from troupe.cli.columns import worker_table
from troupe.cli.fleet_status import FleetStatus, snapshot, watch
from troupe.cli.invocation import Invocation, alone
from troupe.cli.output import counted, screen
from troupe.v1 import status_pb2

REDRAWN_AFTER = 0.25
"""Seconds between two pictures, however fast the fleet changes; a person reads no faster."""

WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")]


async def status(invocation: Invocation, watching: WatchOption = False) -> None:
    """The fleet: its revision and rollout, and each worker's health, revision, last attempt, shards and load."""
    output = invocation.output
    async with control_plane(invocation.endpoints.server) as fleet:
        if not watching:
            found = await snapshot(fleet)
            output.item(_document(found), lambda: _view(found))
        elif not output.human:
            async for found in watch(fleet):
                if found.answers:
                    output.event(_document(found))
        elif output.console.is_terminal:
            with Live(console=screen(), auto_refresh=False) as live:
                await _paced(fleet, lambda found: live.update(_view(found), refresh=True))
        else:
            await _paced(fleet, lambda found: output.say(_view(found), Text()))


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, status, namespaced=False)


async def _paced(fleet: ControlPlane, show: Callable[[FleetStatus], None]) -> None:
    """Show the newest status at each change, without those that come too fast."""
    newest: list[FleetStatus] = []
    changed = asyncio.Event()

    async def follow() -> None:
        async for found in watch(fleet):
            newest[:] = [found]
            changed.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        while True:
            await changed.wait()
            changed.clear()
            show(newest[0])
            await asyncio.sleep(REDRAWN_AFTER)


def _document(found: FleetStatus) -> dict[str, object]:
    return {"current": found.current, "workers": found.workers}


def _view(found: FleetStatus) -> Group:
    parts: list[RenderableType] = [_headline(found)]
    if found.current.rollout.reason:
        parts.append(Text(rollout.explained(found.current), style="red"))
    if not found.answers:
        parts.append(Text("the control plane does not answer; this is what it said last", style="yellow"))
    return Group(*parts, Text(), worker_table(found.workers, found.generations()))


def _headline(found: FleetStatus) -> Text:
    healthy = sum(one.report.health.state == status_pb2.HEALTH_STATE_HEALTHY for one in found.workers)
    workers = f"{healthy} of {len(found.workers)} workers healthy"
    if not found.current.revision_id:
        return Text(f"no revision yet: `troupe apply -f FILE` makes the first · {workers}")
    current = found.current
    stage = [rollout.stage(current.rollout)] if current.rollout.stage else []
    if current.rollout.rollback_of_revision_id:
        stage.append(f"(the way back from {current.generation - 1})")
    fared = rollout.summed(rollout.stands(current, found.workers))
    parts = [
        " ".join([f"revision {current.generation}", *stage]),
        *([fared] if fared and current.rollout.stage != rollout.COMPLETE else []),
        counted(current.resource_count, "resource"),
        workers,
    ]
    return Text(" · ".join(parts), style="bold")
