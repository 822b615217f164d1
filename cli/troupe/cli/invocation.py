"""What every client command shares: how it prints, where the fleet is, and the edge around it.

A command is a function that takes an `Invocation` and its own parameters. `alone` and `group` give it the common
options (`--output`, `--server`, `--gateway`, `--token`, `--tls-ca`, `--tls-cert`, `--tls-key`, `--namespace`,
`--debug`) and run it, a coroutine in an event loop of its own, which Ctrl-C cancels. A parameter that is a dataclass
stands for its fields, each an option: those that several commands have are defined once.
"""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from troupe.cli import endpoints
from troupe.cli.credentials import Shown, showing
from troupe.cli.edge import reported
from troupe.cli.endpoints import Endpoints
from troupe.cli.help import HELP, help_without_command
from troupe.cli.output import Format, Output, output

P = ParamSpec("P")
Command = Callable[Concatenate["Invocation", P], Awaitable[None] | None]

OutputOption = Annotated[Format, typer.Option("--output", "-o", help="How to print.", show_default=True)]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="TROUPE_SERVER",
        metavar="HOST:PORT",
        help="Control plane, or several with commas between; else that of `troupe up`.",
    ),
]
GatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway", envvar="TROUPE_GATEWAY", metavar="HOST:PORT", help="Any worker; else that of `troupe up`."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="TROUPE_TOKEN",
        metavar="TOKEN|@FILE",
        help="Bearer token, best from a file or the variable: others on this machine see what is typed.",
    ),
]
CaOption = Annotated[
    str | None, typer.Option("--tls-ca", envvar="TROUPE_TLS_CA", metavar="FILE", help="PEM: authorities of servers.")
]
CertOption = Annotated[
    str | None, typer.Option("--tls-cert", envvar="TROUPE_TLS_CERT", metavar="FILE", help="PEM: certificate to show.")
]
KeyOption = Annotated[
    str | None, typer.Option("--tls-key", envvar="TROUPE_TLS_KEY", metavar="FILE", help="PEM: its key, unencrypted.")
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Namespace; `default` where none is named.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of a client command."""

    output: Output
    endpoints: Endpoints
    data: Path
    namespace: str | None = None


def alone(name: str, function: Command[P], *, namespaced: bool = True, **settings: Any) -> typer.Typer:
    """An application with this one client command."""
    app = typer.Typer(add_completion=False)
    app.command(name, context_settings=HELP, **settings)(_with_common_options(function, namespaced))
    return app


def group(text: str, functions: Mapping[str, Command[...]]) -> typer.Typer:
    """An application with a client command under each name."""
    app = typer.Typer(help=text, add_completion=False, context_settings=HELP)
    app.callback(invoke_without_command=True)(help_without_command)
    for name, function in functions.items():
        app.command(name, context_settings=HELP)(_with_common_options(function, namespaced=True))
    return app


def _with_common_options(function: Command[...], namespaced: bool) -> Callable[..., None]:
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

    @functools.wraps(function)
    def run(
        *,
        output_format: Format,
        server: str | None,
        gateway: str | None,
        token: str | None,
        tls_ca: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        debug: bool,
        namespace: str | None = None,
        **own: Any,
    ) -> None:
        shown = Shown(tls_ca or "", tls_cert or "", tls_key or "", token or "")
        with reported(debug=debug), showing(shown):
            data = endpoints.data_directory()
            invocation = Invocation(
                output(output_format), endpoints.resolve(server, gateway, data), data, namespace or None
            )
            taken = {parameter.name: _collected(parameter, own) for parameter in parameters}
            result = function(invocation, **taken)
            if inspect.iscoroutine(result):
                asyncio.run(result)

    shown = [*(option for parameter in parameters for option in _options(parameter)), *_common(namespaced)]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    kind = parameter.annotation
    if not is_dataclass(kind):
        return [parameter]
    types = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=types[field.name])
        for field in fields(kind)
    ]


def _collected(parameter: inspect.Parameter, given: Mapping[str, Any]) -> Any:
    """What was given, as the parameter takes it."""
    if not is_dataclass(parameter.annotation):
        return given[parameter.name]
    kind: Any = parameter.annotation
    return kind(**{field.name: given[field.name] for field in fields(kind)})


def _common(namespaced: bool) -> list[inspect.Parameter]:
    options: list[tuple[str, Any, Any]] = [
        ("output_format", OutputOption, Format.TABLE),
        ("server", ServerOption, None),
        ("gateway", GatewayOption, None),
        ("token", TokenOption, None),
        ("tls_ca", CaOption, None),
        ("tls_cert", CertOption, None),
        ("tls_key", KeyOption, None),
        ("debug", DebugOption, False),
    ]
    if namespaced:
        options.insert(1, ("namespace", NamespaceOption, None))
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in options
    ]
