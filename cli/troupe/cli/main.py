"""The `troupe` command. A command's module is imported when that command is asked for: grpc, the resources and,
above all, the services take longer to import than most commands take to run."""

import importlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from troupe.cli.edge import MISUSED, complain
from troupe.cli.help import HELP, help_without_command

EPILOG = (
    "Exit status: 0 done, 1 failed, 2 misused. Addresses come from --server and --gateway, then TROUPE_SERVER and "
    "TROUPE_GATEWAY, then what `troupe up` left in its data directory (TROUPE_DATA). TROUPE_TLS_CA, TROUPE_TLS_CERT "
    "and TROUPE_TLS_KEY name PEM files for servers with TLS; TROUPE_TOKEN is a bearer token, or @FILE."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list of commands. `module` has a function `commands(name)` that makes the command."""

    name: str
    panel: str
    help: str
    module: str


ENTRIES = (
    Entry("up", "Fleet", "Run a whole fleet in this terminal.", "up"),
    Entry("apply", "Fleet", "Bring manifests into the fleet.", "apply"),
    Entry("rollback", "Fleet", "Bring the content of an earlier revision back.", "rollback"),
    Entry("delete", "Fleet", "Take a resource out of the fleet.", "delete"),
    Entry("get", "Fleet", "List agents, actors, tools, models, workers, revisions or sessions.", "get"),
    Entry("status", "Fleet", "The fleet at a glance, once or live.", "status"),
    Entry("drain", "Fleet", "Have a worker hand over what it has and exit.", "drain"),
    Entry("doctor", "Fleet", "Check this machine and the fleet.", "doctor"),
    Entry("chat", "Conversations", "Talk to an agent.", "chat"),
    Entry("send", "Conversations", "Hand a message over.", "send"),
    Entry("message", "Conversations", "What became of a message: show, wait.", "message"),
    Entry("turns", "Conversations", "Verbs on messages: cancel, kill, pause, resume, restart.", "turns"),
    Entry("promise", "Conversations", "What turns wait for: list, show, resolve, reject.", "promise"),
    Entry("session", "Conversations", "One conversation: show, history, delete.", "session"),
    Entry("dlq", "Conversations", "Messages that were given up: list, show, redrive, purge.", "dlq"),
    Entry("controlplane", "Services", "Run the control plane.", "services"),
    Entry("dataplane", "Services", "Run a worker.", "services"),
    Entry("llm-sim", "Services", "Run the model simulator.", "services"),
    Entry("certs", "Access", "Certificates to try a fleet with mutual TLS: dev.", "certs"),
    Entry("token", "Access", "Bearer tokens: new.", "token"),
    Entry("version", "Other", "Print the version.", "version"),
)


class Commands(TyperGroup):
    """Lists placeholders, and puts the command itself in place of one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        entry = next((one for one in ENTRIES if one.name == name), None)
        return name, loaded(entry) if entry else listed, rest


def application() -> typer.Typer:
    """All commands, in the order in which somebody new meets them."""
    app = typer.Typer(
        cls=Commands,
        help="Fleets of LLM agents, run like any serious service.",
        epilog=EPILOG,
        context_settings=HELP,
    )
    app.callback(invoke_without_command=True)(help_without_command)
    for entry in ENTRIES:
        app.command(entry.name, help=entry.help, rich_help_panel=entry.panel)(_placeholder)
    return app


def loaded(entry: Entry) -> Any:
    """The command behind the entry."""
    return get_command(importlib.import_module(f"troupe.cli.{entry.module}").commands(entry.name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name, by default the process's; the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        result = get_command(application()).main(arguments, prog_name="troupe", standalone_mode=False)
    except typer.TyperException as error:
        complain(_usage_error(error))
        return MISUSED
    except typer.Abort:
        return MISUSED
    return result if isinstance(result, int) else 0


def _usage_error(error: typer.TyperException) -> str:
    text = error.format_message().strip().rstrip(".").replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    return f"{text}; see `{context.command_path} --help`" if context else text


def _placeholder() -> None:
    """Only listed."""


if __name__ == "__main__":
    sys.exit(main())
