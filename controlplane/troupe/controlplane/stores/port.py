"""The port behind which revisions, placement and workers are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from troupe.controlplane.placement import Member, Placement
from troupe.controlplane.revisions import Head, Summary
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import RevisionAttempt

KEPT_REVISIONS: Final = 100
"""The newest this many revisions are kept."""


@dataclass(frozen=True, slots=True)
class KnownWorker:
    """A worker as it was last heard of. `last_attempt` is None before it has tried a revision."""

    member: Member
    last_attempt: RevisionAttempt | None = None


class RevisionStore(Protocol):
    """Revisions, placement and workers of one fleet.

    What a write's return confirms is durable where the backend is. A write that raises Unavailable may have happened
    or not; any other error means that it has not. Cancelling a caller does not take its write back. All methods
    raise Unavailable where the backend cannot be used now, and DataLoss where what it holds cannot be read.
    """

    @property
    def shard_count(self) -> int:
        """Shards of the deployment, fixed when the store was created."""
        ...

    async def head(self) -> Head:
        """The newest revision and the term: what the next commit is compared with."""
        ...

    async def commit(self, config: ConfigSpec, created_at: float, after: Head) -> None:
        """Append `config` and drop what is older than the kept revisions. Raises Aborted, and nothing is stored,
        where the head's generation or term is not that of `after` any more."""
        ...

    async def revision(self, revision_id: str) -> tuple[ConfigSpec, Summary] | None:
        """A kept revision, its resources' bytes as they came; None where there is none of that id."""
        ...

    async def revisions(self, limit: int, before: int | None = None) -> list[Summary]:
        """Up to `limit` kept revisions, the newest first, those below generation `before` only."""
        ...

    async def placement(self) -> Placement:
        """The newest placement; one of version 0 before the first."""
        ...

    async def save_placement(self, placement: Placement, term: int) -> None:
        """Replace the placement. Raises Aborted, and nothing is stored, where the one stored is not the version just
        before, or the term is another."""
        ...

    async def workers(self) -> Sequence[KnownWorker]:
        """Every worker that is remembered, by worker id."""
        ...

    async def remember_worker(self, worker: KnownWorker) -> None:
        """Keep what is known of a worker in place of what was known of that worker id."""
        ...

    async def forget_worker(self, worker_id: str) -> None:
        """Drop what is known of a worker; nothing where nothing is."""
        ...
