"""From YAML nodes to protobuf's JSON mapping, checked against a message's descriptor, with every mistake noted."""

import math
import re
from collections.abc import Callable
from typing import Any

import yaml
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from troupe.resources import durations
from troupe.resources.documents import Findings
from troupe.resources.nearest import nearest
from troupe.resources.paths import joined, shown

_STRING, _INTEGER, _FLOAT, _BOOLEAN, _NULL = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")
)
_KNOWN_TAGS = {
    _STRING: "text",
    _INTEGER: "a number",
    _FLOAT: "a number",
    _BOOLEAN: "true or false",
    _NULL: "nothing",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:seq": "a list",
    "tag:yaml.org,2002:map": "a mapping",
}
_WHOLE = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


def to_mapping(
    node: yaml.Node, descriptor: Descriptor, path: str, findings: Findings, lines: dict[str, int]
) -> dict[str, Any]:
    """The message at `node` in protobuf's JSON mapping; absent fields and null are left out. Notes in `lines` where
    each path is (counted from 1), and in `findings` each unknown or repeated field and each value of a wrong type;
    the result is worth using only where none was noted."""
    try:
        return _Mapper(findings, lines).message(node, descriptor, path)
    except _Wrong as wrong:
        findings.add(node.start_mark, path, *wrong.args)
        return {}


class _Wrong(Exception):
    """A value that is not of its field's type."""


class _Mapper:
    def __init__(self, findings: Findings, lines: dict[str, int]) -> None:
        self._findings, self._lines = findings, lines

    def message(self, node: yaml.Node, descriptor: Descriptor, path: str) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _Wrong(f"a mapping is expected, not {_kind(node)}")
        result: dict[str, Any] = {}
        by_name = {field.json_name: field for field in descriptor.fields}
        chosen: dict[str, str] = {}
        for name, (key, value) in self._findings.fields(node, path, tuple(by_name)).items():
            field, place = by_name[name], joined(path, name)
            self._lines[place] = key.start_mark.line + 1
            if _is_null(value):
                continue
            oneof = field.containing_oneof
            if oneof is not None and chosen.setdefault(oneof.name, name) != name:
                self._findings.add(key.start_mark, place, f"excludes {chosen[oneof.name]}; give one of them")
            read = self._map if _is_map(field) else self._list if field.is_repeated else self._single
            self._checked(value, field, place, read, result, name)
        return result

    def _checked(
        self,
        node: yaml.Node,
        field: FieldDescriptor,
        path: str,
        read: Callable[[yaml.Node, FieldDescriptor, str], Any],
        into: dict[str, Any] | list[Any],
        name: str | None = None,
    ) -> None:
        self._findings.read(node)
        try:
            value = read(node, field, path)
        except _Wrong as wrong:
            self._findings.add(node.start_mark, path, *wrong.args)
            return
        if isinstance(into, list):
            into.append(value)
        elif name is not None:
            into[name] = value

    def _map(self, node: yaml.Node, field: FieldDescriptor, path: str) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _Wrong(f"a mapping is expected, not {_kind(node)}")
        entry = _message_type(field).fields_by_name["value"]
        result: dict[str, Any] = {}
        for name, key, value in self._findings.pairs(node, path):
            place = joined(path, name)
            self._lines[place] = key.start_mark.line + 1
            try:
                _text(key)
            except _Wrong as wrong:
                self._findings.add(key.start_mark, place, f"its key: {wrong.args[0]}")
            self._checked(value, entry, place, self._single, result, name)
        return result

    def _list(self, node: yaml.Node, field: FieldDescriptor, path: str) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            raise _Wrong(f"a list is expected, not {_kind(node)}; begin each entry with a dash")
        result: list[Any] = []
        for index, item in enumerate(node.value):
            place = f"{path}[{index}]"
            self._lines[place] = item.start_mark.line + 1
            self._checked(item, field, place, self._single, result)
        return result

    def _single(self, node: yaml.Node, field: FieldDescriptor, path: str) -> Any:
        if node.tag not in _KNOWN_TAGS:
            raise _Wrong(f"the tag {shown(node.tag)} is not taken; write plain values")
        match field.type:
            case FieldDescriptor.TYPE_MESSAGE:
                return self._submessage(node, _message_type(field), path)
            case FieldDescriptor.TYPE_STRING:
                return _text(node)
            case FieldDescriptor.TYPE_BOOL:
                return _boolean(node)
            case FieldDescriptor.TYPE_ENUM:
                return _enum(node, field)
            case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
                return _number(node)
            case whole:
                return _whole(node, *_WHOLE[whole])

    def _submessage(self, node: yaml.Node, descriptor: Descriptor, path: str) -> Any:
        if descriptor.full_name == "google.protobuf.Duration":
            return _duration(node)
        if descriptor.full_name == "troupe.v1.SecretRef" and not isinstance(node, yaml.MappingNode):
            name = path.rpartition(".")[2]
            raise _Wrong(f"a secret is given by reference, never as its value; write {name}: {{env: NAME}}")
        return self.message(node, descriptor, path)


def _text(node: yaml.Node) -> str:
    if node.tag != _STRING or not isinstance(node, yaml.ScalarNode):
        quotable = isinstance(node, yaml.ScalarNode) and node.tag != _NULL
        hint = f'; quote it: "{shown(node.value)}"' if quotable else ""
        raise _Wrong(f"text is expected, not {_kind(node)}{hint}")
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        raise _Wrong("it holds half a surrogate pair, which is no Unicode text") from error
    return str(node.value)


def _boolean(node: yaml.Node) -> bool:
    if node.tag != _BOOLEAN:
        raise _Wrong(f"true or false is expected, not {_kind(node)}")
    return node.value.casefold() in ("true", "yes", "on")


def _enum(node: yaml.Node, field: FieldDescriptor) -> str:
    names = [value.name for value in _enum_type(field).values if value.number != 0]
    if node.tag == _STRING and node.value in names:
        return str(node.value)
    given = shown(node.value) if isinstance(node, yaml.ScalarNode) else _kind(node)
    guess = nearest(given, names) or next((name for name in names if name.endswith(f"_{given.upper()}")), "")
    raise _Wrong(f"{given!r} is none of {', '.join(names)}", guess)


def _whole(node: yaml.Node, least: int, most: int) -> int:
    if node.tag not in (_INTEGER, _FLOAT):
        raise _Wrong(f"a whole number is expected, not {_kind(node)}")
    if not re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,19})", node.value):
        raise _Wrong(f"a whole number in plain decimal digits is expected, not {shown(node.value)}")
    value = int(node.value)
    if not least <= value <= most:
        raise _Wrong(f"{value} is out of range; at least {least} and at most {most}")
    return value


def _number(node: yaml.Node) -> float:
    if node.tag not in (_INTEGER, _FLOAT):
        raise _Wrong(f"a number is expected, not {_kind(node)}")
    try:
        value = float(node.value)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _Wrong(f"a plain decimal number is expected, not {shown(node.value)}")
    return value


def _duration(node: yaml.Node) -> str:
    value = durations.canonical(node.value) if node.tag == _STRING else None
    if value is None:
        given = shown(node.value) if isinstance(node, yaml.ScalarNode) else _kind(node)
        raise _Wrong(f"a duration is expected, a number and its unit such as 100ms, 30s, 5m or 1h, not {given}")
    return value


def _kind(node: yaml.Node) -> str:
    return _KNOWN_TAGS.get(node.tag, "a value with a tag")


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == _NULL)


def _is_map(field: FieldDescriptor) -> bool:
    return field.type == FieldDescriptor.TYPE_MESSAGE and bool(_message_type(field).GetOptions().map_entry)


def _message_type(field: FieldDescriptor) -> Descriptor:
    assert field.message_type is not None
    return field.message_type


def _enum_type(field: FieldDescriptor) -> EnumDescriptor:
    assert field.enum_type is not None
    return field.enum_type
