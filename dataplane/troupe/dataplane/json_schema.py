"""Whether a JSON value is of a JSON Schema: the keywords of draft 2020-12 that schemas made from types have, and those
about numbers, texts, arrays and objects, with the formats of those types. Others say nothing here. Pure."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

MAX_DEPTH: Final = 100
"""How deep a value may be nested, references that lead back to themselves included."""


def faults(schema: Any, value: Any) -> Iterator[str]:
    """What is wrong with the value, each in one sentence that begins with its place, as in `$.items[2].price must be
    at least 0`. Nothing where it is of the schema."""
    return _Check(schema).faults(schema, value, "$", MAX_DEPTH)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_multiple(value: float, step: float) -> bool:
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    return math.isclose(value, round(value / step) * step)


_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
}

_FORMATS: Final[Mapping[str, type]] = {
    "date-time": datetime,
    "date": date,
    "time": time,
    "duration": timedelta,
    "uuid": UUID,
    "decimal": Decimal,
    "base64": bytes,
}


def _reads_as(value: str, form: str) -> bool:
    """Whether the turn, which has the type, can read the text. A form that no type has says nothing."""
    try:
        msgspec.convert(value, _FORMATS.get(form, str))
    except msgspec.ValidationError:
        return False
    return True


_LIMITS: Final[tuple[tuple[str, str, Callable[[Any, Any], bool], str], ...]] = (
    ("number", "minimum", lambda value, limit: value >= limit, "must be at least {}"),
    ("number", "maximum", lambda value, limit: value <= limit, "must be at most {}"),
    ("number", "exclusiveMinimum", lambda value, limit: value > limit, "must be more than {}"),
    ("number", "exclusiveMaximum", lambda value, limit: value < limit, "must be less than {}"),
    ("number", "multipleOf", _is_multiple, "must be a multiple of {}"),
    ("string", "minLength", lambda value, limit: len(value) >= limit, "must have at least {} characters"),
    ("string", "maxLength", lambda value, limit: len(value) <= limit, "must have at most {} characters"),
    ("string", "pattern", lambda value, limit: re.search(limit, value) is not None, "must match {}"),
    ("string", "format", _reads_as, "must be a {}"),
    ("string", "contentEncoding", _reads_as, "must be {}"),
    ("array", "minItems", lambda value, limit: len(value) >= limit, "must have at least {} items"),
    ("array", "maxItems", lambda value, limit: len(value) <= limit, "must have at most {} items"),
    ("object", "minProperties", lambda value, limit: len(value) >= limit, "must have at least {} fields"),
    ("object", "maxProperties", lambda value, limit: len(value) <= limit, "must have at most {} fields"),
)


class _Check:
    def __init__(self, root: Any) -> None:
        self._root = root

    def faults(self, schema: Any, value: Any, place: str, depth: int) -> Iterator[str]:
        if schema is True:
            return
        if not isinstance(schema, dict):
            yield f"{place} must not be there"
            return
        if depth == 0:
            yield f"{place} is nested deeper than {MAX_DEPTH} levels"
            return
        if "$ref" in schema:
            yield from self.faults(self._referred(schema["$ref"]), value, place, depth - 1)
        types = schema.get("type", [])
        types = [types] if isinstance(types, str) else types
        if types and not any(_TYPES[name](value) for name in types if name in _TYPES):
            yield f"{place} must be {' or '.join(types)}, not {_kind(value)}"
            return
        if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
            yield f"{place} must be one of {', '.join(map(_shown, schema['enum']))}"
        if "const" in schema and not _same(value, schema["const"]):
            yield f"{place} must be {_shown(schema['const'])}"
        for kind, keyword, holds, text in _LIMITS:
            if keyword in schema and _TYPES[kind](value) and not holds(value, schema[keyword]):
                yield f"{place} {text.format(schema[keyword])}"
        yield from self._combined(schema, value, place, depth)
        if isinstance(value, list):
            yield from self._items(schema, value, place, depth)
        if isinstance(value, dict):
            yield from self._fields(schema, value, place, depth)

    def _combined(self, schema: Mapping[str, Any], value: Any, place: str, depth: int) -> Iterator[str]:
        for each in schema.get("allOf", ()):
            yield from self.faults(each, value, place, depth - 1)
        if "anyOf" in schema and not any(self._holds(each, value, place, depth) for each in schema["anyOf"]):
            yield f"{place} is none of the {len(schema['anyOf'])} things that it may be"
        if "oneOf" in schema and sum(self._holds(each, value, place, depth) for each in schema["oneOf"]) != 1:
            yield f"{place} must be exactly one of the {len(schema['oneOf'])} things that it may be"
        if "not" in schema and self._holds(schema["not"], value, place, depth):
            yield f"{place} is what it must not be"

    def _items(self, schema: Mapping[str, Any], value: list[Any], place: str, depth: int) -> Iterator[str]:
        first = schema.get("prefixItems", [])
        for index, item in enumerate(value):
            each = first[index] if index < len(first) else schema.get("items", True)
            yield from self.faults(each, item, f"{place}[{index}]", depth - 1)
        if schema.get("uniqueItems") and len({json.dumps(item, sort_keys=True) for item in value}) < len(value):
            yield f"{place} must not have an item twice"

    def _fields(self, schema: Mapping[str, Any], value: dict[str, Any], place: str, depth: int) -> Iterator[str]:
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{place}.{name} is required"
        declared = schema.get("properties", {})
        for name, field in value.items():
            each = declared[name] if name in declared else schema.get("additionalProperties", True)
            yield from self.faults(each, field, f"{place}.{name}", depth - 1)

    def _holds(self, schema: Any, value: Any, place: str, depth: int) -> bool:
        return next(self.faults(schema, value, place, depth - 1), None) is None

    def _referred(self, reference: str) -> Any:
        """The schema that `#/…` leads to. What leads nowhere allows nothing."""
        found = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                return False
            found = found[name]
        return found if reference.startswith("#") else False


def _same(one: Any, other: Any) -> bool:
    """JSON's idea of it: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _kind(value: Any) -> str:
    return next(name for name, is_one in _TYPES.items() if is_one(value))


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)
