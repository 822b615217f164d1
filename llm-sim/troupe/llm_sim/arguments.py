"""Arguments that fit a tool's JSON schema, made from what the user said."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_DEEPEST = 5
_LONGEST = 3
_DIGITS = 300
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def string_property(schema: Mapping[str, Any] | None) -> str | None:
    """The name of the first required property that is a string, else of the first that is one; None without any."""
    properties = _properties(schema or {})
    required = [name for name in _required(schema or {}) if name in properties]
    for name in [*required, *properties]:
        if _type(properties[name]) == "string":
            return name
    return None


def fill(schema: Mapping[str, Any] | None, words: str) -> dict[str, Any]:
    """An object with every required property: strings are `words`, numbers are taken from it in order, what the schema
    gives as const, default or enum comes first. References into the schema itself are followed, five levels deep."""
    root = dict(schema or {})
    filled = _value(root | {"type": "object"}, _Source(words, _numbers(words), root), 0)
    return filled if isinstance(filled, dict) else {}


@dataclass(frozen=True, slots=True)
class _Source:
    words: str
    numbers: Iterator[float]
    root: Mapping[str, Any]


def _value(schema: Any, source: _Source, depth: int) -> Any:
    schema = _resolved(schema, source.root)
    if depth > _DEEPEST:
        return None
    choices = schema.get("enum")
    fixed = [schema[key] for key in ("const", "default") if key in schema]
    fixed += choices[:1] if isinstance(choices, list) else []
    return fixed[0] if fixed else _invented(schema, source, depth)


def _invented(schema: Mapping[str, Any], source: _Source, depth: int) -> Any:
    value: Any
    match _type(schema):
        case "object":
            properties = _properties(schema)
            value = {name: _value(properties.get(name), source, depth + 1) for name in _required(schema)}
        case "array":
            fewest = min(int(_number(schema, "minItems", 0)), _LONGEST)
            value = [_value(schema.get("items"), source, depth + 1) for _ in range(fewest)]
        case "integer":
            value = int(next(source.numbers, _number(schema, "minimum", 1)))
        case "number":
            value = next(source.numbers, _number(schema, "minimum", 1))
        case "boolean":
            value = True
        case "null":
            value = None
        case _:
            value = source.words
    return value


def _number(schema: Mapping[str, Any], key: str, default: float) -> float:
    value = schema.get(key)
    return value if isinstance(value, (int, float)) else default


def _numbers(words: str) -> Iterator[float]:
    for found in _NUMBER.finditer(words):
        yield float(found[0]) if "." in found[0] else int(found[0][:_DIGITS])


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(_LONGEST):
        if not isinstance(schema, dict):
            return {}
        options = schema.get("anyOf") or schema.get("oneOf")
        if isinstance(options, list):
            schema = next((option for option in options if option != {"type": "null"}), {})
        elif isinstance(reference := schema.get("$ref"), str):
            schema = _pointed(root, reference)
        else:
            return schema
    return {}


def _pointed(root: Mapping[str, Any], reference: str) -> Any:
    place: Any = root
    for name in reference.removeprefix("#").split("/")[1:]:
        place = place.get(name) if isinstance(place, dict) else None
    return place


def _type(schema: Any) -> str:
    kind = schema.get("type", "") if isinstance(schema, dict) else ""
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    return kind if isinstance(kind, str) else ""


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _required(schema: Mapping[str, Any]) -> list[str]:
    required = schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
