"""`troupe version`."""

from importlib import metadata

import typer


def version() -> None:
    """Print the version."""
    print(metadata.version("troupe-cli"))


def commands(name: str) -> typer.Typer:
    """This module's command."""
    app = typer.Typer(add_completion=False)
    app.command(name)(version)
    return app
