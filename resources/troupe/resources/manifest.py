"""Manifests: YAML text to resources, with the line of every field, or every mistake at once.

A file holds one or several documents of the form

    apiVersion: troupe.dev/v1
    kind: Agent
    metadata: {name: clerk}
    spec: {model: default, turnDeadline: 5m}

`spec` and `metadata` follow protobuf's JSON mapping of resource.proto: fields in camelCase, enum values by their
full names, null for absent. Durations may be written with `ms`, `s`, `m` or `h`. Anchors and aliases are read,
merge keys are not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from troupe.chassis.errors import Violation
from troupe.resources.content import Key, key
from troupe.resources.documents import Findings, TooMany, documents
from troupe.resources.kinds import API_VERSION, DEFAULT_NAMESPACE, SPECS, descriptor
from troupe.resources.manifest_errors import InvalidManifest, ManifestError
from troupe.resources.mapping import to_mapping
from troupe.resources.nearest import nearest
from troupe.resources.paths import shown
from troupe.resources.validation import findings_of
from troupe.v1.resource_pb2 import Metadata, Resource


@dataclass(frozen=True, slots=True)
class Source:
    """Where a resource is written: the line, from 1, of each field's path."""

    file: str
    lines: Mapping[str, int]

    def line(self, path: str) -> int:
        """The line of the field, or of the nearest thing around it that is written; the document's for ''."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines[path]


@dataclass(frozen=True, slots=True)
class Declared:
    """A resource and where it is written."""

    resource: Resource
    source: Source


def parse(content: str | bytes, file: str) -> list[Declared]:
    """The resources of one file, in the order of the text. Raises InvalidManifest with all its mistakes."""
    return parse_all([(file, content)])


def parse_all(files: Iterable[tuple[str, str | bytes]]) -> list[Declared]:
    """The resources of several files, given as (name, content). Each is valid in itself; what they refer to is not
    looked at. Raises InvalidManifest with all mistakes of all files, a resource declared twice among them."""
    declared: dict[Key, Declared] = {}
    errors: list[ManifestError] = []
    for file, content in files:
        findings = Findings(file)
        with suppress(TooMany):
            for one in _declarations(content, findings):
                first = declared.setdefault(key(one.resource), one)
                if first is not one:
                    where = f"{first.source.file}:{first.source.line('metadata.name')}"
                    findings.add(
                        _mark(one.source, "metadata.name"),
                        "metadata.name",
                        f"{key(one.resource)} is declared twice, first in {where}",
                    )
        errors += findings.errors
    if errors:
        raise InvalidManifest(errors)
    return list(declared.values())


def located(violations: Iterable[Violation], declared: Sequence[Declared]) -> list[ManifestError]:
    """Violations, as `troupe.resources.validation` and Sync report them, at the places in the files that they are
    about. One about a resource that is in no file has the resource's key in place of a file."""
    sources = {str(key(one.resource)): one.source for one in declared}
    errors = []
    for violation in violations:
        name, _, path = violation.field.partition(" ")
        source = sources.get(name)
        if source is None:
            errors.append(ManifestError(name, 0, 0, path, violation.description))
        else:
            errors.append(ManifestError(source.file, source.line(path), 0, path, violation.description))
    return errors


def _declarations(content: str | bytes, findings: Findings) -> Iterator[Declared]:
    empty = True
    for node in documents(content, findings):
        empty = False
        before = len(findings)
        one = _declaration(node, findings)
        if one is None:
            continue
        for path, problem in findings_of(one.resource):
            findings.add(_mark(one.source, path), path, problem)
        if len(findings) == before:
            yield one
    if empty and not findings:
        findings.add(None, "", "the file declares nothing")


def _declaration(node: yaml.Node, findings: Findings) -> Declared | None:
    """None where something is wrong with its form, which is noted then."""
    before = len(findings)
    if not isinstance(node, yaml.MappingNode):
        empty = node.tag == "tag:yaml.org,2002:null"
        problem = "the document is empty; remove its ---" if empty else "a document must be a mapping"
        findings.add(node.start_mark, "", problem)
        return None
    fields = findings.fields(node, "", ("apiVersion", "kind", "metadata", "spec"))
    lines = {"": node.start_mark.line + 1} | {name: part.start_mark.line + 1 for name, (part, _) in fields.items()}
    for name in ("apiVersion", "kind", "metadata", "spec"):
        if name not in fields or fields[name][1].tag == "tag:yaml.org,2002:null":
            place = fields[name][0] if name in fields else node
            hint = "; {} takes every default" if name == "spec" else ""
            findings.add(place.start_mark, name, f"required{hint}")
            fields.pop(name, None)
    if "apiVersion" in fields:
        _expect(fields["apiVersion"][1], "apiVersion", (API_VERSION,), findings)
    kind = _expect(fields["kind"][1], "kind", tuple(SPECS), findings) if "kind" in fields else None
    metadata, spec = Metadata(), SPECS[kind]() if kind else None
    if "metadata" in fields:
        _read(fields["metadata"][1], metadata, "metadata", findings, lines)
    if "spec" in fields and spec is not None:
        _read(fields["spec"][1], spec, "spec", findings, lines)
    if len(findings) > before or kind is None or spec is None:
        return None
    metadata.namespace = metadata.namespace or DEFAULT_NAMESPACE
    resource = Resource(kind=kind, metadata=metadata)
    resource.spec.Pack(spec, deterministic=True)
    return Declared(resource, Source(findings.file, lines))


def _expect(node: yaml.Node, name: str, allowed: tuple[str, ...], findings: Findings) -> str | None:
    findings.read(node)
    if isinstance(node, yaml.ScalarNode) and node.value in allowed:
        return str(node.value)
    given = shown(node.value) if isinstance(node, yaml.ScalarNode) else "a collection"
    guess = nearest(given, allowed) if len(allowed) > 1 else ""
    findings.add(node.start_mark, name, f'"{given}" is not known; use {", ".join(allowed)}', guess)
    return None


def _read(node: yaml.Node, into: Message, path: str, findings: Findings, lines: dict[str, int]) -> None:
    before = len(findings)
    mapping = to_mapping(node, descriptor(into), path, findings, lines)
    if len(findings) > before:
        return
    try:
        json_format.ParseDict(mapping, into)
    except json_format.ParseError as error:
        findings.add(node.start_mark, path, f"not valid: {error}")


def _mark(source: Source, path: str) -> yaml.Mark:
    return yaml.Mark(source.file, 0, source.line(path) - 1, 0, None, 0)
