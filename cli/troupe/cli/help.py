"""How help is asked for: the same everywhere."""

import typer

HELP = {"help_option_names": ["-h", "--help"]}
"""Settings of every command."""


def help_without_command(context: typer.Context) -> None:
    """The callback of a group: alone, it prints what there is."""
    if context.invoked_subcommand is None:
        print(context.get_help())
