"""`troupe controlplane`, `dataplane`, `llm-sim`: each service on its own, its flags its settings."""

import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from troupe.cli.edge import reported
from troupe.cli.help import HELP
from troupe.cli.invocation import DebugOption, OutputOption
from troupe.cli.output import Format, output

if TYPE_CHECKING:
    from troupe.chassis.lifecycle import Stop

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="Settings as TOML; flags and environment win. (TROUPE_CONFIG)"),
]
PrintOption = Annotated[
    bool, typer.Option("--print-settings", help="Print the effective settings, secrets masked, and end.")
]


@dataclass(frozen=True, slots=True)
class Service:
    """Where a service lives: `settings` and `process` are its modules, `type` the name of its settings class."""

    name: str
    help: str
    package: str
    type: str

    def settings(self) -> Any:
        """Its settings class."""
        return getattr(importlib.import_module(f"{self.package}.settings"), self.type)

    def process(self) -> Any:
        """Its module that serves: with a `serve(settings, stop)`, or just a `running(settings)` to be left."""
        return importlib.import_module(f"{self.package}.process")

    async def serve(self, settings: Any, stop: "Stop") -> None:
        """Serve until `stop`, or until it is over by itself."""
        process = self.process()
        if hasattr(process, "serve"):
            await process.serve(settings, stop)
        else:
            async with process.running(settings):
                await stop


SERVICES = {
    one.name: one
    for one in (
        Service(
            "controlplane",
            "Run the control plane until SIGINT or SIGTERM.",
            "troupe.controlplane",
            "ControlPlaneSettings",
        ),
        Service("dataplane", "Run a worker until SIGINT or SIGTERM.", "troupe.dataplane", "DataPlaneSettings"),
        Service("llm-sim", "Run the model simulator until SIGINT or SIGTERM.", "troupe.llm_sim", "LlmSimSettings"),
    )
}


def commands(name: str) -> typer.Typer:
    """The command of the service of that name."""
    from troupe.cli.options import with_settings

    service = SERVICES[name]

    def run(
        flags: Mapping[str, Any],
        config: ConfigOption = None,
        print_settings: PrintOption = False,
        format_: OutputOption = Format.TABLE,
        debug: DebugOption = False,
    ) -> None:
        with reported(debug=debug):
            settings = service.settings().load(flags, config)
            if print_settings:
                _print(service, settings.shown(), format_)
            else:
                raise typer.Exit(_serve(service, settings))

    app = typer.Typer(add_completion=False)
    app.command(name, help=service.help, context_settings=HELP)(with_settings(service.settings(), run))
    return app


def _serve(service: Service, settings: Any) -> int:
    from troupe.chassis import fault_points, lifecycle, logs, metrics, tracing

    with lifecycle.importing():
        service.process()
    fault_points.arm(os.environ)
    logs.configure(settings.log_format, settings.log_level, service.name)
    tracing.configure(service.name, settings.otlp_endpoint)

    async def main(stop: lifecycle.Stop) -> int:
        with metrics.exposing(settings):
            await service.serve(settings, stop)
        return 0

    try:
        return lifecycle.run(main)
    finally:
        tracing.shutdown()


def _print(service: Service, shown: Mapping[str, Any], format_: Format) -> None:
    printer = output(format_)
    printer.item(
        shown, lambda: "\n".join([f"[{service.name}]", *(_toml(name, value) for name, value in shown.items())])
    )


def _toml(name: str, value: Any) -> str:
    """One line of a settings file; a comment where nothing is set."""
    return f"# {name} is not set" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"
