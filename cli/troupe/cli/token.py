"""`troupe token new`: bearer tokens for a file that keeps their hashes."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.cli.edge import note, reported
from troupe.cli.help import HELP, help_without_command
from troupe.cli.invocation import DebugOption

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Whose it is; a worker's is its id.", show_default=False)
]
RoleOption = Annotated[
    list[str],
    typer.Option(
        "--role",
        metavar="ROLE",
        help="admin, operator, client, telemetry, worker or controlplane; once for each.",
        show_default=False,
    ),
]
FileOption = Annotated[
    Path,
    typer.Option(
        "--tokens",
        envvar="TROUPE_TOKENS",
        metavar="FILE",
        help="The file to add it to, which services read with --tokens.",
        show_default=False,
    ),
]
TenantOption = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Whose sessions it sees; else those of `default`.")
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--agent-label", metavar="NAME=VALUE", help="A label that an agent must have to be reached; once for each."
    ),
]
DaysOption = Annotated[
    int | None, typer.Option("--days", metavar="N", min=1, help="Days until it expires; else it does not.")
]


def new(
    name: NameArgument,
    role: RoleOption,
    tokens: FileOption,
    tenant: TenantOption = None,
    agent_label: LabelOption = None,
    days: DaysOption = None,
    debug: DebugOption = False,
) -> None:
    """Make a token and print it, this once: the file keeps its SHA-256 alone."""
    with reported(debug=debug):
        from troupe.chassis.access import static_tokens

        token = static_tokens.fresh_token()
        entry = _entry(name, static_tokens.hashed(token), role, tenant, _labels(agent_label or []), days)
        _add(tokens, entry)
        sys.stdout.write(f"{token}\n")
        note(f"added to {tokens}; the token is not kept anywhere and is not shown again")


def commands(name: str) -> typer.Typer:
    """This module's commands."""
    app = typer.Typer(help="Bearer tokens: new.", add_completion=False, context_settings=HELP)
    app.callback(invoke_without_command=True)(help_without_command)
    app.command("new", context_settings=HELP)(new)
    return app


def _entry(
    name: str, sha256: str, roles: Sequence[str], tenant: str | None, labels: Mapping[str, str], days: int | None
) -> str:
    """The lines of one token. JSON's texts and lists are TOML's too."""
    lines = ["[[token]]", f"name = {_text(name)}", f'sha256 = "{sha256}"', f"roles = {json.dumps([*roles])}"]
    if tenant is not None:
        lines.append(f"tenant = {_text(tenant)}")
    if labels:
        pairs = ", ".join(f"{_text(label)} = {_text(value)}" for label, value in labels.items())
        lines.append(f"agents = {{ {pairs} }}")
    if days is not None:
        lines.append(f"expires = {datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _labels(given: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if bad := next((name for name, equals, _ in pairs if not (name and equals)), None):
        raise InvalidArgument("BAD_LABEL", f"--agent-label {bad} is no NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _add(path: Path, entry: str) -> None:
    """Replace the file at once: a service that reads it meanwhile sees the old one or the new one."""
    from troupe.chassis.access import static_tokens

    fresh = path.with_name(f".{path.name}.new")
    try:
        text = (path.read_text(encoding="utf-8") + "\n" if path.exists() else "") + entry
        static_tokens.parsed(text, path)
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise FailedPrecondition("DATA_UNWRITABLE", f"cannot write {path}: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)
