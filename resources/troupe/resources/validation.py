"""The rules that a set of resources must meet, the same for the command line (offline) and for Sync.

A violation's field is the resource's key and the field's path as a manifest spells it:
`Agent/default/clerk spec.model`. What is about the set as a whole has the field `resources`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from troupe.chassis.errors import TroupeError, Violation
from troupe.resources import spec_rules
from troupe.resources.content import Key, key
from troupe.resources.kinds import SPECS, unpack
from troupe.resources.nearest import nearest
from troupe.resources.paths import joined, shown
from troupe.resources.references import resolve, shortest
from troupe.resources.spec_rules import Finding
from troupe.v1.resource_pb2 import ActorSpec, AgentSpec, Metadata, Resource, ToolSpec

MAX_RESOURCES = 10_000
MAX_LABELS = 32
MAX_LABEL_BYTES = 63
MAX_ANNOTATION_BYTES = 64 << 10
RESERVED = "graph"
"""A name that nothing may have: `graph/RUN` are the ids of graph runs."""

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
"""What names, namespaces and worker ids look like (`fullmatch`)."""

_ADDRESS = re.compile(rf"\w{{1,63}}/{NAME.pattern}/{NAME.pattern}", re.ASCII)
_ADDRESSED = ("Agent", "Actor")
"""Kinds that messages are sent to: they share one name space."""


def validate(resources: Sequence[Resource]) -> list[Violation]:
    """Everything that is wrong with the set, resource by resource in the order given; empty when nothing is. With
    more than 10,000 resources only that is said."""
    if len(resources) > MAX_RESOURCES:
        return [Violation("resources", f"{len(resources):,} are too many, at most {MAX_RESOURCES:,} are taken")]
    known = {key(resource) for resource in resources}
    names = _Names(known)
    seen: set[Key] = set()
    addressed: dict[tuple[str, str], Key] = {}
    found: list[Violation] = []
    for resource in resources:
        identity = key(resource)
        if identity in seen:
            found.append(_violation(identity, "metadata.name", "is in the set twice"))
            continue
        seen.add(identity)
        found += (_violation(identity, *finding) for finding in findings_of(resource))
        found += _references(resource, known, names)
        if identity.kind in _ADDRESSED:
            first = addressed.setdefault((identity.namespace, identity.name), identity)
            if first != identity:
                problem = f"is taken by {first}: agents and actors share one name space"
                found.append(_violation(identity, "metadata.name", problem))
    return found


def findings_of(resource: Resource) -> Iterator[Finding]:
    """What is wrong with one resource by itself, as (path, problem); what it refers to is not looked at."""
    if resource.kind not in SPECS:
        guess = nearest(resource.kind, SPECS)
        yield "kind", f"is not known; use {', '.join(SPECS)}" + _meant(guess)
    yield from _metadata_findings(resource.metadata)
    if resource.kind not in SPECS:
        return
    try:
        spec = unpack(resource)
    except TroupeError as error:
        yield "spec", str(error)
        return
    for path, problem in spec_rules.findings(spec):
        yield f"spec.{path}" if path else "spec", problem


class _Names:
    """Suggestions for wrong references. Looking for one goes through all names, so only the first few distinct
    references get one: a set in which everything is wrong must not cost its square."""

    LOOKUPS = 20

    def __init__(self, known: set[Key]) -> None:
        self._known = known
        self._meant: dict[tuple[Key, str], str] = {}

    def nearest(self, target: Key, namespace: str) -> str:
        """The reference that was probably meant: the same name elsewhere, else a similar one in that namespace."""
        if (target, namespace) in self._meant:
            return self._meant[target, namespace]
        if len(self._meant) == self.LOOKUPS:
            return ""
        candidates = [candidate for candidate in self._known if candidate.kind == target.kind]
        same = [shortest(candidate, namespace) for candidate in candidates if candidate.name == target.name]
        close = [shortest(candidate, namespace) for candidate in candidates if candidate.namespace == target.namespace]
        meant = min(same, default="") or nearest(shortest(target, namespace), sorted(close))
        return self._meant.setdefault((target, namespace), meant)


def _metadata_findings(metadata: Metadata) -> Iterator[tuple[str, str]]:
    if not metadata.name:
        yield "metadata.name", "required"
    elif not NAME.fullmatch(metadata.name):
        yield "metadata.name", _not_a_name(metadata.name)
    elif metadata.name == RESERVED:
        yield "metadata.name", f'"{RESERVED}" is reserved for graph runs'
    if metadata.namespace and not NAME.fullmatch(metadata.namespace):
        yield "metadata.namespace", _not_a_name(metadata.namespace)
    if len(metadata.labels) > MAX_LABELS:
        yield "metadata.labels", f"has {len(metadata.labels)} entries, at most {MAX_LABELS} are taken"
    for name, value in sorted(metadata.labels.items())[:MAX_LABELS]:
        if not name or len(name.encode()) > MAX_LABEL_BYTES:
            yield joined("metadata.labels", name), f"its key must have 1 to {MAX_LABEL_BYTES} bytes"
        if len(value.encode()) > MAX_LABEL_BYTES:
            yield joined("metadata.labels", name), f"must have at most {MAX_LABEL_BYTES} bytes"
    size = sum(len(name.encode()) + len(value.encode()) for name, value in metadata.annotations.items())
    if size > MAX_ANNOTATION_BYTES:
        yield "metadata.annotations", f"have {size:,} bytes, at most {MAX_ANNOTATION_BYTES:,} are taken"


def _not_a_name(text: str) -> str:
    return f'"{shown(text)}" is no name: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit'


def _references(resource: Resource, known: set[Key], names: _Names) -> Iterator[Violation]:
    for kind, path, reference in _referred(resource):
        identity = key(resource)
        target = resolve(kind, reference, identity.namespace)
        if target in known:
            continue
        guess = names.nearest(target, identity.namespace)
        where = f" in namespace {shown(target.namespace)}" if target.namespace != identity.namespace else ""
        problem = f'there is no {kind} "{shown(target.name)}"{where}{_meant(guess)}'
        yield _violation(identity, path, problem)


def _referred(resource: Resource) -> Iterable[tuple[str, str, str]]:
    """Kind, path and text of each reference."""
    if resource.kind not in SPECS:
        return
    try:
        spec = unpack(resource)
    except TroupeError:
        return
    if isinstance(spec, AgentSpec) and spec.model:
        yield "Model", "spec.model", spec.model
    if isinstance(spec, AgentSpec | ActorSpec):
        for index, tool in enumerate(spec.tools[: spec_rules.MAX_TOOLS]):
            yield "Tool", f"spec.tools[{index}]", tool
    if isinstance(spec, ToolSpec) and spec.compensation:
        yield "Tool", "spec.compensation", spec.compensation


def _meant(guess: str) -> str:
    return f'; did you mean "{guess}"?' if guess else ""


def _violation(identity: Key, path: str, problem: str) -> Violation:
    address = str(identity)
    if not _ADDRESS.fullmatch(address):
        address = shown(address).replace(" ", "\N{OPEN BOX}")
    return Violation(f"{address} {path}", problem)
