"""What is in a set of resources: identity, content hash, differences, merging."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from troupe.chassis.errors import TroupeError
from troupe.resources.kinds import DEFAULT_NAMESPACE, unpack
from troupe.v1.resource_pb2 import Resource


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A resource's identity, written `Agent/default/clerk`."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Diff:
    """What leads from one set to another, each part sorted by key. `changed` holds pairs of old and new."""

    added: tuple[Resource, ...]
    changed: tuple[tuple[Resource, Resource], ...]
    removed: tuple[Resource, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs. `old` and `new` are values of protobuf's JSON mapping; None stands for absent."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        old, new = _shown(self.old), _shown(self.new)
        if isinstance(self.old, str) and isinstance(self.new, str):
            old, new = _shown_apart(self.old, self.new)
        return f"{self.path}: {old} -> {new}"


def key(resource: Resource) -> Key:
    """The resource's identity; an absent namespace is `default`."""
    return Key(resource.kind, resource.metadata.namespace or DEFAULT_NAMESPACE, resource.metadata.name)


def content_hash(resources: Iterable[Resource]) -> str:
    """SHA-256 in lower-case hexadecimal over the resources sorted by (kind, namespace, name).

    Each contributes kind, namespace, name and the SHA-256 of `spec.value`'s bytes in hexadecimal, each of the four
    as UTF-8 after its length in bytes (four bytes, big endian). The bytes are hashed as they are, never after
    another serialisation, because a serialised protobuf is not canonical. Labels and annotations do not count: two
    revisions that differ in them alone have the same hash, and are told apart by `diff`, id and generation.
    """
    entries = sorted((key(resource), hashlib.sha256(resource.spec.value).hexdigest()) for resource in resources)
    digest = hashlib.sha256()
    for identity, spec in entries:
        for part in (identity.kind, identity.namespace, identity.name, spec):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.hexdigest()


def diff(old: Iterable[Resource], new: Iterable[Resource]) -> Diff:
    """What leads from `old` to `new`, by key. A resource has changed when its spec's bytes, its labels or its
    annotations differ: agents are selected by labels and prompts show them, so a change of them is worth a revision
    although the content hash stays."""
    before = {key(resource): resource for resource in old}
    after = {key(resource): resource for resource in new}
    return Diff(
        added=tuple(after[identity] for identity in sorted(after.keys() - before.keys())),
        changed=tuple(
            (before[identity], after[identity])
            for identity in sorted(before.keys() & after.keys())
            if _contents(before[identity]) != _contents(after[identity])
        ),
        removed=tuple(before[identity] for identity in sorted(before.keys() - after.keys())),
    )


def merge(current: Iterable[Resource], declared: Iterable[Resource], *, prune: bool = False) -> list[Resource]:
    """The set to sync, sorted by key: what is declared replaces what is current under the same key, and the rest of
    what is current stays, unless `prune` makes the declared ones the whole set."""
    merged = {} if prune else {key(resource): resource for resource in current}
    merged |= {key(resource): resource for resource in declared}
    return [merged[identity] for identity in sorted(merged)]


def changes(old: Resource, new: Resource) -> list[Change]:
    """The fields in which two resources of one key differ, sorted by path: `spec.model`, `spec.tools[1]`,
    `metadata.labels.tier`. Specs that cannot be read differ as a whole, under `spec`."""
    before, after = dict(_leaves("", _mapping(old))), dict(_leaves("", _mapping(new)))
    return [
        Change(path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _contents(resource: Resource) -> tuple[str, bytes, dict[str, str], dict[str, str]]:
    metadata = resource.metadata
    return resource.spec.type_url, resource.spec.value, dict(metadata.labels), dict(metadata.annotations)


def _mapping(resource: Resource) -> dict[str, Any]:
    metadata = resource.metadata
    return {
        "metadata": {"labels": dict(metadata.labels), "annotations": dict(metadata.annotations)},
        "spec": _spec_mapping(resource),
    }


def _spec_mapping(resource: Resource) -> Any:
    try:
        return json_format.MessageToDict(unpack(resource))
    except (TroupeError, json_format.Error, ValueError):
        return resource.spec.value.hex()


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case dict():
            for name, item in value.items():
                yield from _leaves(f"{path}.{name}" if path else name, item)
        case list():
            for index, item in enumerate(value):
                yield from _leaves(f"{path}[{index}]", item)
        case _:
            yield path, value


SHOWN = 60
"""Characters of a value in a printed change; a prompt may have thousands."""


def _shown(value: Any) -> str:
    if value is None:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _shown_apart(old: str, new: str) -> tuple[str, str]:
    """Long texts are cut where they begin to differ, so that what is printed is the difference."""
    if max(len(old), len(new)) <= SHOWN:
        return _shown(old), _shown(new)
    same = next((index for index, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    if same <= SHOWN // 2:
        return _shown(old), _shown(new)
    start = same - 10
    return _shown(f"…{old[start:]}"), _shown(f"…{new[start:]}")
