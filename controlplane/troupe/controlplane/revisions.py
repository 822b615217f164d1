"""Which set of resources becomes a revision: the rules of Sync, as a function of what is stored and what is asked.

Revisions form one line. A Sync names the revision that it started from, and is taken only while that one is the
newest; so nobody overwrites what they have not seen. A Sync whose answer was lost is sent again under its id and
finds its own revision.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from troupe.chassis.errors import Aborted, AlreadyExists, InvalidArgument, Violation
from troupe.resources.content import content_hash, diff
from troupe.resources.validation import validate
from troupe.v1.control_plane_pb2 import SyncRequest
from troupe.v1.resource_pb2 import ConfigSpec

MAX_CONFIG_BYTES = 16 << 20
"""A whole revision must fit into the one message that brings it to a worker."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the line: what a commit is compared with. Generation 0 and no id before the first revision."""

    generation: int
    term: int
    revision_id: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """A revision without its resources. `created_at` is in seconds since the epoch."""

    revision_id: str
    parent_revision_id: str
    generation: int
    term: int
    content_hash: str
    created_at: float
    resource_count: int


@dataclass(frozen=True, slots=True)
class Accept:
    """The revision to commit, if it is still the next one then."""

    config: ConfigSpec


@dataclass(frozen=True, slots=True)
class Repeat:
    """The revision stands already: this Sync was sent before."""

    config: ConfigSpec


def decide(request: SyncRequest, head: Head, stored: ConfigSpec | None) -> Accept | Repeat:
    """What becomes of the request, given the newest revision and the one `stored` under the request's id, if any.

    Raises, in this order: InvalidArgument for an id that is no UUIDv7; AlreadyExists where the id has other content
    (labels and annotations count, though the content hash leaves them out); Aborted with `current_revision_id` in
    its metadata where the parent is not the newest; InvalidArgument with one violation for each resource and field.
    """
    if not _is_uuid7(request.revision_id):
        raise _invalid([Violation("revision_id", "must be a UUIDv7 in its canonical form, made by the caller")])
    if stored is not None:
        if diff(stored.resources, request.resources) or len(stored.resources) != len(request.resources):
            raise AlreadyExists(
                "REVISION_ID_TAKEN",
                f"revision {request.revision_id} exists with other content; make a new id for new content",
            )
        return Repeat(stored)
    if request.parent_revision_id != head.revision_id:
        raise Aborted(
            "STALE_PARENT",
            f"the current revision is {head.revision_id or 'none yet'}, not "
            f"{request.parent_revision_id[:64] or 'none'}; read it and merge again",
            metadata={"current_revision_id": head.revision_id},
        )
    violations = validate(request.resources)
    if violations:
        raise _invalid(violations)
    config = ConfigSpec(
        revision_id=request.revision_id,
        generation=head.generation + 1,
        term=head.term,
        parent_revision_id=head.revision_id,
        content_hash=content_hash(request.resources),
        resources=request.resources,
    )
    if config.ByteSize() > MAX_CONFIG_BYTES:
        size = f"{config.ByteSize():,} bytes are too many, at most {MAX_CONFIG_BYTES:,} are taken"
        raise _invalid([Violation("resources", size)])
    return Accept(config)


def summary(config: ConfigSpec, created_at: float) -> Summary:
    """What there is to say of a revision beside its resources."""
    return Summary(
        revision_id=config.revision_id,
        parent_revision_id=config.parent_revision_id,
        generation=config.generation,
        term=config.term,
        content_hash=config.content_hash,
        created_at=created_at,
        resource_count=len(config.resources),
    )


def _invalid(violations: Iterable[Violation]) -> InvalidArgument:
    found = list(violations)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return InvalidArgument(
        "INVALID_REVISION", f"{found[0].field}: {found[0].description}{more}; nothing was stored", violations=found
    )


def _is_uuid7(text: str) -> bool:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return False
    return str(parsed) == text and parsed.version == 7
