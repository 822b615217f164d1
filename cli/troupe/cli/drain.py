"""`troupe drain`: one worker hands its shards over, ends its turns and exits."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from troupe.chassis.errors import DeadlineExceeded
from troupe.cli import durations
from troupe.cli.clients import ControlPlane, control_plane
from troupe.cli.edge import note
from troupe.cli.fleet_status import FleetStatus, watch
from troupe.cli.invocation import Invocation, alone
from troupe.cli.output import counted
from troupe.cli.spinner import waiting
from troupe.v1 import status_pb2
from troupe.v1.control_plane_pb2 import WorkerStatus

WorkerArgument = Annotated[str, typer.Argument(metavar="WORKER", help="Its name.", show_default=False)]
WaitOption = Annotated[bool, typer.Option("--wait", help="Until its process is gone.")]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", parser=durations.parse, metavar="DURATION", help="How long --wait waits."),
]


async def drain(
    invocation: Invocation,
    worker: WorkerArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = "10m",  # type: ignore[assignment]  # parsed like what a user types
) -> None:
    """Have a worker's process hand its shards over, end its turns and exit; nothing is lost. Another process of that
    name may be started at any time."""
    output = invocation.output
    async with control_plane(invocation.endpoints.server) as fleet:
        instance = await fleet.drain(worker)
        if output.human:
            output.say(Text(f"{worker}: DRAINING: it hands its shards over, ends its turns and exits"))
        if wait:
            try:
                async with waiting(output, f"{worker}: DRAINING") as say:
                    await gone(fleet, worker, instance, timeout, say)
            except asyncio.CancelledError:
                note(f"{worker} goes on draining without you; see `troupe get workers`")
                raise
            if output.human:
                output.say(Text(f"{worker}: gone", style="green"))
    if not output.human:
        output.item({"workerId": worker, "instanceId": instance, "gone": wait}, Text)


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, drain, namespaced=False)


async def gone(
    fleet: ControlPlane, worker_id: str, instance_id: str, timeout: float, say: Callable[[str], None]
) -> None:
    """Wait until that process of the worker is gone: its lease is over, or another one has taken its name. `say` hears
    what it still has. Raises DeadlineExceeded after `timeout` seconds."""
    left = f"{worker_id}: DRAINING"
    try:
        async with asyncio.timeout(timeout), contextlib.aclosing(watch(fleet)) as stream:
            async for status in stream:
                here = _found(status, worker_id, instance_id)
                if here is None and status.answers:
                    return
                if here is not None:
                    left = _left(here)
                    say(left)
    except TimeoutError as error:
        raise DeadlineExceeded(
            "DRAIN_UNFINISHED", f"{left} after {timeout:g} s; it goes on draining; see `troupe get workers`"
        ) from error


def _found(status: FleetStatus, worker_id: str, instance_id: str) -> WorkerStatus | None:
    found = status.known.get(worker_id)
    if found is None or found.report.instance_id != instance_id:
        return None
    return found if found.report.health.state != status_pb2.HEALTH_STATE_LOST else None


def _left(worker: WorkerStatus) -> str:
    shards, turns = len(worker.report.shards), worker.report.load.running_turns
    what = [counted(number, noun) for number, noun in ((shards, "shard"), (turns, "running turn")) if number]
    left = f"{' and '.join(what)} left" if what else "it has handed over everything; its process is about to end"
    return f"{worker.worker_id}: DRAINING: {left}"
