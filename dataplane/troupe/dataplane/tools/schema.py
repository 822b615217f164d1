"""The parameters of a function, for a model: their JSON Schema, and the check of what a model sends."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Union, get_type_hints

import msgspec
from msgspec import UNSET, Struct, UnsetType


class InvalidArguments(ValueError):
    """What a model sent does not fit; the text tells it what would."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one tool."""

    schema: msgspec.Raw
    """JSON Schema (2020-12) of an object with one property per parameter, encoded."""
    _decoder: msgspec.json.Decoder[Struct]
    _names: tuple[str, ...]

    @classmethod
    def of(cls, function: Callable[..., Any], tool: str, descriptions: Mapping[str, str]) -> "Parameters":
        """Read them from the function's type hints. Raises TypeError that names tool and parameter."""
        fields = _fields(function, tool)
        try:
            arguments = msgspec.defstruct(tool or "tool", fields, kw_only=True, forbid_unknown_fields=True)
            decoder = msgspec.json.Decoder(arguments)
        except (TypeError, ValueError) as error:
            raise TypeError(f"tool {tool}: {_first_line(error)}") from error
        schema = _schema(function, tool, arguments, descriptions)
        return cls(schema, decoder, tuple(name for name, *_ in fields))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of them."""
        return self._names

    def parse(self, arguments: str) -> dict[str, Any]:
        """The keyword arguments that the JSON text means; no text means no arguments. What is left out is left to the
        function's defaults. Raises InvalidArguments."""
        try:
            values = self._decoder.decode(arguments.strip() or "{}")
        except msgspec.ValidationError as error:
            raise InvalidArguments(f"{error}; the arguments must match {bytes(self.schema).decode()}") from error
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise InvalidArguments(f"the arguments are not a JSON object: {error}") from error
        given = {name: getattr(values, name) for name in self._names}
        return {name: value for name, value in given.items() if value is not UNSET}


def _fields(function: Callable[..., Any], tool: str) -> list[tuple[str, Any, Any] | tuple[str, Any]]:
    try:
        signature = inspect.signature(function)
        hints = get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise TypeError(f"tool {tool}: its type hints cannot be read: {error}") from error
    fields: list[tuple[str, Any, Any] | tuple[str, Any]] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {tool}: parameter {name} must be callable by name, not {parameter.kind.description}")
        if name not in hints:
            raise TypeError(f"tool {tool}: parameter {name} has no type hint; a model must know what to send")
        if parameter.default is parameter.empty:
            fields.append((name, hints[name]))
        else:
            fields.append((name, Union[hints[name], UnsetType], UNSET))  # noqa: UP007 - hints are values here
    return fields


def _schema(
    function: Callable[..., Any], tool: str, arguments: type[Struct], descriptions: Mapping[str, str]
) -> msgspec.Raw:
    for field in msgspec.structs.fields(arguments):
        try:
            msgspec.json.schema(field.type)
        except TypeError as error:
            raise TypeError(f"tool {tool}: parameter {field.name}: {field.type!r} has no JSON form") from error
    (own,), components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    root = components.pop(own["$ref"].removeprefix("#/$defs/"))
    root.pop("title", None)
    for name, parameter in inspect.signature(function).parameters.items():
        shown = root["properties"][name]
        if name in descriptions:
            shown.setdefault("description", descriptions[name])
        if parameter.default is not parameter.empty:
            with suppress(TypeError):  # a default without a JSON form is the function's own business
                shown.setdefault("default", msgspec.to_builtins(parameter.default))
    if components:
        root["$defs"] = components
    return msgspec.Raw(msgspec.json.encode(root))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
