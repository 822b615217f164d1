"""The page of commands, from the Typer application."""

import inspect
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

from typer.main import get_command

from generation.markdown import code, table
from troupe.cli.main import ENTRIES, EPILOG, application, loaded

INTRODUCTION = """# Commands

`troupe COMMAND --help` says the same. `-o json` and `-o yaml` print what programs read; a stream is one JSON object
per line. An error is one line on stderr.

"""

COMMON = (
    "--output",
    "--namespace",
    "--server",
    "--gateway",
    "--token",
    "--tls-ca",
    "--tls-cert",
    "--tls-key",
    "--debug",
    "--config",
    "--print-settings",
)
"""Options that mean the same wherever they are: described once, named at each command."""


def page() -> str:
    """Every command with its arguments and options."""
    listed = table(
        ["command", "what it does"], ([f"[`troupe {one.name}`](#troupe-{one.name})", one.help] for one in ENTRIES)
    )
    own = get_command(application())
    top = table(["option", "meaning"], [["`-h`, `--help`", "Of every command: say this."], *_shell(own)])
    found = {entry.name: loaded(entry) for entry in ENTRIES}
    described = "".join(part for name, command in found.items() for part in _described(f"troupe {name}", command))
    return f"{INTRODUCTION}{EPILOG}\n\n{listed}\n{top}\n## Common options\n\n{_common(found.values())}{described}"


def names(parameter: Any) -> str:
    """All names of an option with what it takes, or the argument's."""
    if parameter.param_type_name == "argument":
        return code(parameter.metavar or parameter.name.upper())
    taken = "" if parameter.is_flag else f" {_taken(parameter)}"
    spelled = ", ".join(code(one) for one in sorted([*parameter.opts, *parameter.secondary_opts], key=len))
    return spelled + (f" {code(taken.strip())}" if taken else "")


def _shell(own: Any) -> list[list[str]]:
    return [[names(one), one.help] for one in own.params]


def _common(commands: Iterable[Any]) -> str:
    options = [one for command in commands for leaf in _leaves(command) for one in leaf.params if _is_common(one)]
    return _options([next(one for one in options if _long(one) == name) for name in COMMON])


def _leaves(command: Any) -> Iterator[Any]:
    below = getattr(command, "commands", None)
    if below is None:
        yield command
    else:
        for one in below.values():
            yield from _leaves(one)


def _is_common(parameter: Any) -> bool:
    """A service's setting may have the name of one and is something else."""
    return _long(parameter) in COMMON and getattr(parameter, "rich_help_panel", None) != "Settings"


def _long(parameter: Any) -> str:
    return max(map(str, parameter.opts), key=len)


def _options(options: Iterable[Any]) -> str:
    head = ["option", "default", "environment", "meaning"]
    return table(head, ([names(one), _default(one), code(one.envvar or ""), one.help or ""] for one in options))


def _described(name: str, command: Any) -> Iterator[str]:
    yield f"\n## {name}\n\n{inspect.cleandoc(command.help or '').strip()}\n"
    if below := getattr(command, "commands", None):
        for each, one in below.items():
            yield from _described(f"{name} {each}", one)
        return
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and "--help" not in one.opts]
    usage = " ".join([name, *(_usage(one) for one in arguments)])
    yield f"\n```text\n{usage} [OPTIONS]\n```\n"
    if arguments:
        yield "\n" + table(["argument", "meaning"], ([names(one), one.help or ""] for one in arguments))
    if own := [one for one in options if not _is_common(one)]:
        yield "\n" + _options(own)
    if common := [one for one in options if _is_common(one)]:
        yield f"\n[Common options](#common-options): {', '.join(code(_long(one)) for one in common)}.\n"


def _usage(argument: Any) -> str:
    shown = argument.metavar or argument.name.upper()
    return shown if argument.required else f"[{shown}]"


def _taken(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(one.value) for one in annotation)
    return parameter.metavar or str(getattr(annotation, "__name__", "TEXT")).upper()


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return code(parameter.show_default)
    value = parameter.default
    if value in (None, "", False):
        return ""
    return code(str(value.value if isinstance(value, Enum) else value))
