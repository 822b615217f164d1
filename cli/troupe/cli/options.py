"""A service's settings as options of its command."""

import inspect
import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from troupe.chassis.settings import SecretStr, Settings


def with_settings(settings: type[Settings], run: Callable[..., None]) -> Callable[..., None]:
    """`run` with one more option for each setting. They reach it together as its argument `flags`: what the user
    typed, and None for what was not given. The environment is for `Settings.load` to read."""

    def command(**given: Any) -> None:
        flags = {name: given.pop(name) for name in settings.model_fields}
        run(flags={name: None if value == [] else value for name, value in flags.items()}, **given)

    own = [one for one in inspect.signature(run, eval_str=True).parameters.values() if one.name != "flags"]
    parameters = [
        *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own),
        *(_parameter(name, field) for name, field in settings.model_fields.items()),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = run.__doc__
    return command


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    form, metavar = _form(field.annotation)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if form is bool and field.default else flag,
        help=f"{field.description} ({_variable(name)})",
        metavar=metavar,
        show_default=_default(field) or False,
        rich_help_panel="Settings",
    )
    annotation = Annotated[form | None, option]  # type: ignore[valid-type]  # made at run time, for Typer
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _variable(name: str) -> str:
    return f"TROUPE_{name.upper()}"


def _form(annotation: Any) -> tuple[Any, str | None]:
    """The type that Typer reads, which leaves everything but flags and lists to the settings, and how it is shown."""
    members = [one for one in get_args(annotation) if one is not type(None)]
    if get_origin(annotation) is Literal:
        return str, "|".join(members)
    if get_origin(annotation) is list:
        return list[str], _form(members[0])[1]
    if len(members) == 1:
        return _form(members[0])
    if annotation is bool:
        return bool, None
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return str, "|".join(str(one.value) for one in annotation)
    return str, {Path: "PATH", int: "NUMBER", float: "SECONDS", SecretStr: "SECRET"}.get(annotation, "TEXT")


def _default(field: FieldInfo) -> str:
    match field.get_default(call_default_factory=True, validated_data={}):
        case None | SecretStr():
            return ""
        case bool(value):
            return "on" if value else "off"
        case list(values):
            return json.dumps([str(getattr(value, "value", value)) for value in values])
        case value:
            return str(value)
