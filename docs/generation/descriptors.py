"""The contracts with their comments, from protoc."""

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

PROTOS = Path(__file__).parents[2] / "protos"
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"

_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
"""Numbers of these fields of FileDescriptorProto: a comment is found by the path to what it is about."""
_MEMBERS = 2
"""The number of a message's fields, an enum's values and a service's methods."""

_SCALARS = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_DOUBLE: "double",
    FieldDescriptorProto.TYPE_FLOAT: "float",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_UINT32: "uint32",
    FieldDescriptorProto.TYPE_UINT64: "uint64",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A field, a value or a method: its name, what it holds or takes and gives, its number and its comment."""

    name: str
    type: str
    number: int
    comment: str
    oneof: str = ""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A message, an enum or a service."""

    name: str
    comment: str
    members: Sequence[Member]


@dataclass(frozen=True, slots=True)
class Contract:
    """One file: what it says of itself, and what it declares, in its order."""

    name: str
    comment: str
    services: Sequence[Declaration]
    messages: Sequence[Declaration]
    enums: Sequence[Declaration]


@functools.cache
def contracts() -> Sequence[Contract]:
    """Every file of `troupe/v1`, by name. Raises RuntimeError where protoc fails."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "troupe/v1").glob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        arguments = [f"-I{PROTOS}", f"-I{WELL_KNOWN}", "--include_source_info", f"--descriptor_set_out={out.name}"]
        if protoc.main(["protoc", *arguments, *sources]) != 0:
            raise RuntimeError("protoc cannot read the contracts")
        described = FileDescriptorSet.FromString(Path(out.name).read_bytes())
    return [_contract(file) for file in described.file]


def message(name: str) -> Declaration:
    """The message of that name in `troupe.v1`."""
    return next(one for contract in contracts() for one in contract.messages if one.name == name)


def _contract(file: FileDescriptorProto) -> Contract:
    comments = {tuple(one.path): " ".join(one.leading_comments.split()) for one in file.source_code_info.location}
    head = next(one for one in file.source_code_info.location if tuple(one.path) == (12,))
    return Contract(
        file.name,
        " ".join(" ".join([*head.leading_detached_comments, head.leading_comments]).split()),
        [_service(one, comments, (_SERVICES, place)) for place, one in enumerate(file.service)],
        [_message(one, comments, (_MESSAGES, place)) for place, one in enumerate(file.message_type)],
        [_enum(one, comments, (_ENUMS, place)) for place, one in enumerate(file.enum_type)],
    )


Comments = Mapping[tuple[int, ...], str]


def _service(service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]) -> Declaration:
    methods = [
        Member(
            one.name,
            f"{_short(one.input_type)} → {'stream of ' if one.server_streaming else ''}{_short(one.output_type)}",
            place,
            comments.get((*path, _MEMBERS, place), ""),
        )
        for place, one in enumerate(service.method)
    ]
    return Declaration(service.name, comments.get(path, ""), methods)


def _message(declared: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> Declaration:
    entries = {one.name: one for one in declared.nested_type if one.options.map_entry}
    fields = [
        Member(
            one.name,
            _type(one, entries),
            one.number,
            comments.get((*path, _MEMBERS, place), ""),
            declared.oneof_decl[one.oneof_index].name
            if one.HasField("oneof_index") and not one.proto3_optional
            else "",
        )
        for place, one in enumerate(declared.field)
    ]
    return Declaration(declared.name, comments.get(path, ""), fields)


def _enum(declared: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> Declaration:
    values = [
        Member(one.name, "", one.number, comments.get((*path, _MEMBERS, place), ""))
        for place, one in enumerate(declared.value)
    ]
    return Declaration(declared.name, comments.get(path, ""), values)


def _type(field: FieldDescriptorProto, entries: Mapping[str, DescriptorProto]) -> str:
    named = _short(field.type_name)
    if entry := entries.get(named):
        return f"map<{', '.join(_type(one, {}) for one in entry.field)}>"
    base = _SCALARS.get(field.type) or named
    return f"repeated {base}" if field.label == FieldDescriptorProto.LABEL_REPEATED else base


def _short(name: str) -> str:
    """Without the package, for what stands in ours."""
    return name.removeprefix(".").removeprefix("troupe.v1.").removeprefix("google.protobuf.").rpartition(".")[2]
