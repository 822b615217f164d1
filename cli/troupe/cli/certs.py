"""`troupe certs dev`: certificates to try a fleet with mutual TLS."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from troupe.chassis.errors import InvalidArgument
from troupe.cli.edge import note, reported
from troupe.cli.help import HELP, help_without_command
from troupe.cli.invocation import DebugOption
from troupe.cli.output import Format, output

WARNING = (
    "not for production: the authority's key was thrown away, so nothing can be renewed or revoked; take certificates "
    "of a fleet that matters from an authority that renews them"
)
_WORKER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Where to write them.", show_default=False)]
WorkerOption = Annotated[
    list[str] | None,
    typer.Option("--worker", metavar="NAME", help="A worker's id; once for each. By default worker-0."),
]
HostOption = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="HOST", help="A name or address that processes are reached by, beside localhost."),
]
DaysOption = Annotated[int, typer.Option("--days", metavar="N", min=1, max=365, help="Days until they end.")]


def dev(
    directory: DirectoryArgument,
    worker: WorkerOption = None,
    host: HostOption = None,
    days: DaysOption = 30,
    debug: DebugOption = False,
) -> None:
    """Make a throw-away authority, and certificates for the control plane, workers and a client. Not for production."""
    with reported(debug=debug):
        from troupe.cli import dev_certificates

        workers = worker or ["worker-0"]
        for name in workers:
            if not _WORKER.fullmatch(name):
                raise InvalidArgument("BAD_NAME", f"{name!r} is no worker's id: use a-z, 0-9 and -")
        made = dev_certificates.make(directory, workers, host or [], days)
        output(Format.TABLE).say(Text("\n".join(str(path) for path in made), overflow="fold", no_wrap=True))
        note(WARNING)


def commands(name: str) -> typer.Typer:
    """This module's commands."""
    app = typer.Typer(help="Certificates: dev.", add_completion=False, context_settings=HELP)
    app.callback(invoke_without_command=True)(help_without_command)
    app.command("dev", context_settings=HELP)(dev)
    return app
