"""Which set of resources becomes a revision: the rules of Sync, of Rollback and of the way back that the control plane
takes by itself, as functions of what is stored and what is asked.

Revisions form one line. A Sync names the revision that it started from, and is taken only while that one is the
newest; so nobody overwrites what they have not seen. A Rollback names the one that it leaves, and the control plane's
own way back is of the one that failed: neither can undo what came after. A call whose answer was lost is sent again
under its id and finds its own revision; how it was to be rolled out is no part of what it is.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from troupe.chassis.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, Violation
from troupe.controlplane import policy, succession
from troupe.resources.content import content_hash, diff
from troupe.resources.validation import validate
from troupe.v1.control_plane_pb2 import RollbackRequest, SyncRequest
from troupe.v1.resource_pb2 import ConfigSpec, Resource
from troupe.v1.rollout_pb2 import FailurePolicy, Rollout, RolloutPolicy

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
    rollout: Rollout = field(default_factory=Rollout)


@dataclass(frozen=True, slots=True)
class Accept:
    """The revision to commit, if it is still the next one then. `rollouts` are to be stored with it: its own, and what
    its coming makes of the newest one's before it, if there is one."""

    config: ConfigSpec
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The revision stands already: this call was sent before."""

    config: ConfigSpec


def decide(request: SyncRequest, head: Head, stored: ConfigSpec | None, newest: Rollout, now: float) -> Accept | Repeat:
    """What becomes of the request, given the newest revision with its rollout (an empty one before the first) and the
    revision `stored` under the request's id, if any. `now` is in seconds since the epoch.

    Raises, in this order: InvalidArgument for an id that is no UUIDv7; AlreadyExists where the id has other content
    (labels and annotations count, though the content hash leaves them out); Aborted with `current_revision_id` in
    its metadata where the parent is not the newest; InvalidArgument with one violation for each field of the rollout
    policy, and for each resource and field.
    """
    if not _is_uuid7(request.revision_id):
        raise _invalid([_NO_ID])
    if stored is not None:
        if not _is_same(stored.resources, request.resources):
            raise _taken(request.revision_id)
        return Repeat(stored)
    if request.parent_revision_id != head.revision_id:
        raise Aborted(
            "STALE_PARENT",
            f"the current revision is {head.revision_id or 'none yet'}, not "
            f"{request.parent_revision_id[:64] or 'none'}; read it and merge again",
            metadata={"current_revision_id": head.revision_id},
        )
    violations = [*policy.wrong(request.rollout), *validate(request.resources)]
    if violations:
        raise _invalid(violations)
    config = _next(request.revision_id, request.resources, head)
    if config.ByteSize() > MAX_CONFIG_BYTES:
        size = f"{config.ByteSize():,} bytes are too many, at most {MAX_CONFIG_BYTES:,} are taken"
        raise _invalid([Violation("resources", size)])
    own = succession.fresh(policy.resolved(request.rollout), now)
    before = [succession.followed(newest, config.revision_id, now)] if head.revision_id else []
    return Accept(config, (own, *before))


def roll_back(
    request: RollbackRequest,
    head: Head,
    stored: tuple[ConfigSpec, Summary] | None,
    newest: Rollout,
    target: ConfigSpec | None,
    now: float,
) -> Accept | Repeat:
    """What becomes of the request, as with Sync. `target` is the revision that the request names to go back to, or else
    the newest COMPLETE one before the newest; None where that is not kept.

    Raises, in this order: InvalidArgument with one violation for each field; AlreadyExists where the id has become
    something other than a way back from there to that content; Aborted with `current_revision_id` in its metadata
    where the revision to leave is not the newest; FailedPrecondition where there is nothing to go back to.
    """
    violations = [] if _is_uuid7(request.revision_id) else [_NO_ID]
    if not request.from_revision_id:
        violations.append(Violation("from_revision_id", "required: the current revision, which you want to leave"))
    violations += policy.wrong(request.rollout)
    if violations:
        raise _invalid(violations)
    if stored is not None:
        config, about = stored
        left = about.rollout.rollback_of_revision_id
        elsewhere = request.to_revision_id and target is not None and not _is_same(config.resources, target.resources)
        if left != request.from_revision_id or elsewhere:
            raise _taken(request.revision_id)
        return Repeat(config)
    if request.from_revision_id != head.revision_id:
        raise Aborted(
            "STALE_ROLLBACK",
            f"the current revision is {head.revision_id or 'none yet'}, not {request.from_revision_id[:64]}; "
            "look at it before you leave it",
            metadata={"current_revision_id": head.revision_id},
        )
    if target is None:
        wanted = request.to_revision_id[:64]
        raise FailedPrecondition(
            "NO_WAY_BACK",
            f"revision {wanted} is not kept; list those that are"
            if wanted
            else f"no revision before {head.revision_id} was ever COMPLETE; apply what you want instead",
        )
    own = policy.resolved(request.rollout, canary=policy.NO_CANARY)
    return _way_back(request.revision_id, head, newest, target, own, "a user left it", now)


def way_back(revision_id: str, head: Head, newest: Rollout, stable: ConfigSpec, now: float) -> Accept:
    """The revision that brings the content of `stable` back after the newest one failed; see `rollout.goes_back` for
    when. `revision_id` is a new UUIDv7. It goes out as carefully as the one that failed, but without a canary."""
    own = RolloutPolicy()
    own.CopyFrom(newest.policy)
    own.canary.CopyFrom(policy.NO_CANARY)
    own.on_failure = FailurePolicy.FAILURE_POLICY_HALT
    return _way_back(revision_id, head, newest, stable, own, newest.reason, now)


def reissued(revision_id: str, head: Head, newest: Rollout, config: ConfigSpec, now: float) -> Accept:
    """The newest revision again, as one that comes after all that the workers know: for a store that is older than
    they are, because it was restored from a backup. `head` is in a term that is later than theirs, `revision_id` a new
    UUIDv7. It goes out as carefully as the newest one, but without a canary: who knows more than the store has to take
    it, whoever goes first."""
    own = policy.resolved(newest.policy)
    own.canary.CopyFrom(policy.NO_CANARY)
    rollouts = succession.fresh(own, now), succession.followed(newest, revision_id, now)
    return Accept(_next(revision_id, config.resources, head), rollouts)


def _way_back(
    revision_id: str, head: Head, newest: Rollout, target: ConfigSpec, own: RolloutPolicy, why: str, now: float
) -> Accept:
    why = f"{why}; revision {revision_id} brings back what {target.revision_id} was"
    rollouts = succession.fresh(own, now, head.revision_id), succession.left(newest, revision_id, why, now)
    return Accept(_next(revision_id, target.resources, head), rollouts)


def _next(revision_id: str, resources: Iterable[Resource], head: Head) -> ConfigSpec:
    config = ConfigSpec(
        revision_id=revision_id,
        generation=head.generation + 1,
        term=head.term,
        parent_revision_id=head.revision_id,
        resources=resources,
    )
    config.content_hash = content_hash(config.resources)
    return config


def summary(config: ConfigSpec, created_at: float, rollout: Rollout | None = None) -> Summary:
    """What there is to say of a revision beside its resources."""
    return Summary(
        revision_id=config.revision_id,
        parent_revision_id=config.parent_revision_id,
        generation=config.generation,
        term=config.term,
        content_hash=config.content_hash,
        created_at=created_at,
        resource_count=len(config.resources),
        rollout=rollout if rollout is not None else Rollout(),
    )


_NO_ID = Violation("revision_id", "must be a UUIDv7 in its canonical form, made by the caller")


def _is_same(stored: Sequence[Resource], asked: Sequence[Resource]) -> bool:
    return len(stored) == len(asked) and not diff(stored, asked)


def _taken(revision_id: str) -> AlreadyExists:
    return AlreadyExists(
        "REVISION_ID_TAKEN", f"revision {revision_id} exists with other content; make a new id for new content"
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
