"""`troupe up`: a whole fleet in one terminal."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from troupe.cli import endpoints, joining, model_endpoint
from troupe.cli.apply import declarations, merged
from troupe.cli.clients import control_plane
from troupe.cli.edge import reported
from troupe.cli.following import follow
from troupe.cli.help import HELP
from troupe.cli.invocation import DebugOption
from troupe.cli.output import Format, Output, counted, output
from troupe.cli.rollout import explained, stage
from troupe.cli.stopping import unless
from troupe.resources.content import key
from troupe.resources.manifest import Declared

if TYPE_CHECKING:
    from troupe.chassis.lifecycle import Stop
    from troupe.cli.fleet import Fleet, FleetSettings
    from troupe.dataplane.settings import DataPlaneSettings

ROLLOUT_TIMEOUT = 60.0
"""Seconds that the manifests given at the start get to reach the worker."""

ManifestsArgument = Annotated[
    str | None, typer.Argument(metavar="DIR", help="Manifests to apply at the start.", show_default=False)
]
BrokerOption = Annotated[
    str | None,
    typer.Option("--broker", metavar="URL", help="Mailboxes: amqp://…; else a file. (TROUPE_BROKER)"),
]
StateOption = Annotated[
    str | None,
    typer.Option("--state", metavar="URL", help="Session state: redis://…; else a file. (TROUPE_STATE)"),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Workers that share the shards: this one, and others that you start; 1 by default. (TROUPE_WORKERS)",
        show_default=False,
    ),
]
LlmOption = Annotated[
    str | None,
    typer.Option("--llm", metavar="URL", help="Model endpoint; else a simulator. (TROUPE_LLM, OPENAI_BASE_URL)"),
]
ModelOption = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Its model. (TROUPE_MODEL)")]
ListenOption = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="The worker's address. (TROUPE_LISTEN)")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Serve without TLS at an address that is not loopback. (TROUPE_INSECURE)")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Where everything is kept. (TROUPE_DATA)")
]


def up(
    manifests: ManifestsArgument = None,
    broker: BrokerOption = None,
    state: StateOption = None,
    workers: WorkersOption = None,
    llm: LlmOption = None,
    model: ModelOption = None,
    listen: ListenOption = None,
    data: DataOption = None,
    insecure: InsecureOption = False,
    debug: DebugOption = False,
) -> None:
    """Run control plane, worker and, where no model endpoint is named, the simulator, until Ctrl-C."""
    with reported(debug=debug):
        from troupe.chassis import fault_points, lifecycle, logs, tracing

        with lifecycle.importing():
            from troupe.cli.fleet import FleetSettings

        fault_points.arm(os.environ)
        endpoint = model_endpoint.named(llm, model, os.environ)
        flags = {
            "broker": broker,
            "state": state,
            "listen": listen,
            "insecure": insecure or None,
            "python_path": _python_path(manifests),
        }
        settings = FleetSettings.load(data or endpoints.data_directory(), endpoint, flags, workers)
        declared = declarations([manifests]) if manifests else []
        logs.configure(settings.dataplane.log_format, "warning", service="up")
        tracing.configure("up", settings.dataplane.otlp_endpoint)
        try:
            raise typer.Exit(lifecycle.run(lambda stop: _up(settings, declared, stop)))
        finally:
            tracing.shutdown()


def _python_path(manifests: str | None) -> list[Path] | None:
    """Tools and actors may lie beside their manifests; those of the current directory are found too."""
    if manifests is None or "TROUPE_PYTHON_PATH" in os.environ or not Path(manifests).is_dir():
        return None
    return [Path(manifests), Path()]


def commands(name: str) -> typer.Typer:
    """This module's command."""
    app = typer.Typer(add_completion=False)
    app.command(name, context_settings=HELP)(up)
    return app


async def _up(settings: "FleetSettings", declared: list[Declared], stop: "Stop") -> int:
    from troupe.chassis import logs
    from troupe.cli.fleet import running

    printer = output(Format.TABLE)
    async with running(settings) as fleet:
        if await unless(stop, _welcome(printer, fleet, declared, settings)):
            logs.configure(settings.dataplane.log_format, settings.dataplane.log_level, service="up")
        await stop
        # What the services say to each other while they go is no news.
        logs.configure(settings.dataplane.log_format, "error", service="up")
    printer.say(Text(f"stopped; everything is kept in {settings.dataplane.data}"))
    return 0


async def _welcome(printer: Output, fleet: "Fleet", declared: list[Declared], settings: "FleetSettings") -> bool:
    workers = settings.controlplane.workers
    printer.say(_addresses(fleet))
    if declared:
        await _bring(printer, fleet, declared)
    if workers > 1:
        printer.say(_others(fleet, settings.dataplane, workers))
    printer.say(_hints(fleet, declared))
    sys.stdout.flush()
    if workers > 1:
        await _gather(printer, fleet, workers)
    return True


async def _gather(printer: Output, fleet: "Fleet", workers: int) -> None:
    """Wait for the other workers: nothing is placed before all have come."""

    def heard(here: list[str]) -> None:
        printer.say(Text(f"{len(here)} of {workers} workers are there: {', '.join(here)}"))
        sys.stdout.flush()

    printer.say(Text())
    async with control_plane(fleet.endpoints.server) as client:
        await joining.arrived(client, workers, heard)
    printer.say(Text("the shards are placed"))
    sys.stdout.flush()


def _others(fleet: "Fleet", worker: "DataPlaneSettings", workers: int) -> Text:
    passwords = " (with the passwords in their URLs)" if joining.hides(worker) else ""
    lines = ["", f"The shards are for {workers} workers. Start the others, each in a terminal of its own{passwords}:"]
    commands = (joining.command(fleet, worker, number) for number in range(1, workers))
    return Text("\n".join([*lines, *(f"  {one}" for one in commands)]), overflow="fold", no_wrap=True)


async def _bring(printer: Output, fleet: "Fleet", declared: list[Declared]) -> None:
    async with control_plane(fleet.endpoints.server) as client:
        revised = await merged(client, declared)
        followed = await follow(client, revised.revision, ROLLOUT_TIMEOUT, lambda _: None)
    verb = "applied" if revised.difference else "unchanged"
    printer.say(Text(f"{verb:<14} {counted(len(declared), 'resource')}, revision {revised.revision.generation}"))
    if not followed.complete:
        printer.say(Text(f"{stage(followed.revision.rollout)}: {explained(followed.revision)}", style="red"))


def _addresses(fleet: "Fleet") -> Table:
    shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in (
        ("control plane", fleet.endpoints.server),
        ("worker", fleet.endpoints.gateway),
        ("model", fleet.model),
        ("metrics", fleet.metrics),
        ("data", str(fleet.data)),
    ):
        if not value:
            continue
        shown.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    return shown


def _hints(fleet: "Fleet", declared: list[Declared]) -> Text:
    elsewhere = fleet.data != endpoints.data_directory()
    prefix = f"TROUPE_DATA={shlex.quote(str(fleet.data.absolute()))} " if elsewhere else ""
    agents = [key(one.resource).name for one in declared if one.resource.kind == "Agent"]
    first = [] if agents else [f"  {prefix}troupe apply -f examples/first-fleet --wait"]
    lines = [*first, f"  {prefix}troupe chat {agents[0] if agents else 'clerk'}", f"  {prefix}troupe status"]
    return Text("\n".join(["", "In another terminal:", *lines, "", "Ctrl-C stops it."]))
