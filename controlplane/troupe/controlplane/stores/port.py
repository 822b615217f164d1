"""The port behind which revisions, rollouts, placement, workers and leadership are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from troupe.chassis.errors import Aborted
from troupe.controlplane.placement import Member, Placement
from troupe.controlplane.revisions import Head, Summary
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout
from troupe.v1.status_pb2 import Capacity, RevisionAttempt

KEPT_REVISIONS: Final = 100
"""The newest this many revisions are kept, and the newest COMPLETE one, however old."""


class Deposed(Aborted):
    """The writer's term is not the one in the store: it leads no more, and stops."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who may write. The term grows with each change of the leader, from 0 before the first; `renewals` counts the
    leader's signs of life within its term. Nobody leads where `holder` is empty: before the first leader, and after
    one that resigned."""

    term: int
    holder: str = ""
    address: str = ""
    """`host:port` where the leader's ControlPlaneService is reached."""
    renewals: int = 0


@dataclass(frozen=True, slots=True)
class KnownWorker:
    """A worker as it was last heard of. `last_attempt` is None before it has tried a revision."""

    member: Member
    last_attempt: RevisionAttempt | None = None
    capacity: Capacity = field(default_factory=Capacity)
    weight: float | None = None
    """What its label asks for in place of what follows from its capacity."""
    draining: bool = False
    """This process is to hand over what it has, and to exit."""
    replaced: tuple[str, ...] = ()
    """Earlier processes of the worker, the latest last: one that still runs is not to take its place back. Their ids
    are in the order of their hosts' clocks, which is none: a host whose clock is behind could never replace another."""


class RevisionStore(Protocol):
    """Revisions, rollouts, placement, workers and leadership of one fleet, for one leader that writes and any number
    of control planes that read.

    What a write's return confirms is durable where the backend is. A write that raises Unavailable may have happened
    or not, but does not happen once a later one of the same writer has; any other error means that it has not.
    Cancelling a caller does not take its write back. Every write but `lead` is compared with the term in the store in
    the same transaction: it raises Deposed, and nothing is stored, where that is another than the writer's, so that a
    leader that was replaced never writes again. One object writes in one term. All methods raise Unavailable where the
    backend cannot be used now, and DataLoss where what it holds cannot be read.
    """

    @property
    def shard_count(self) -> int:
        """Shards of the deployment, fixed when the store was created."""
        ...

    async def leadership(self) -> Leadership:
        """Who leads now."""
        ...

    async def lead(self, seen: Leadership, holder: str, address: str, beyond: int = 0) -> Leadership:
        """Make `holder` the leader of a new term, the next after the one in the store and after `beyond`. Returns the
        record as it is now. Raises Aborted where it was not `seen` any more, renewals included."""
        ...

    async def renew(self, held: Leadership) -> Leadership:
        """One more sign of life. Returns the record as it is now. Raises Aborted where it was not `held` any more,
        which is also so where a renewal whose reply was lost is in it."""
        ...

    async def resign(self, held: Leadership) -> None:
        """Nobody leads from now on, in the same term. Nothing where `held` is not the leadership in the store any more,
        renewals aside."""
        ...

    async def head(self) -> Head:
        """The newest revision, and the term in the store: what the next commit is compared with."""
        ...

    async def commit(self, config: ConfigSpec, created_at: float, after: Head, rollouts: Sequence[Rollout]) -> None:
        """Append `config` with the first of `rollouts`; the second, if any, becomes the rollout of the revision just
        before. Drop what is older than the kept revisions. Raises Deposed where the head's term is not `after`'s any
        more, and Aborted where its revision is not."""
        ...

    async def revision(self, revision_id: str) -> tuple[ConfigSpec, Summary] | None:
        """A kept revision, its resources' bytes as they came; None where there is none of that id."""
        ...

    async def revisions(self, limit: int, before: int | None = None) -> list[Summary]:
        """Up to `limit` kept revisions, the newest first, those below generation `before` only."""
        ...

    async def last_complete(self, before: int) -> tuple[ConfigSpec, Summary] | None:
        """The newest revision below generation `before` whose rollout is COMPLETE; None where there is none."""
        ...

    async def save_rollouts(self, rollouts: Sequence[tuple[str, Rollout]], term: int) -> None:
        """Replace the rollouts of these revisions, all or none. Those that are not kept are passed over."""
        ...

    async def placement(self) -> Placement:
        """The newest placement; one of version 0 before the first."""
        ...

    async def save_placement(self, placement: Placement, term: int) -> None:
        """Replace the placement. Raises Aborted where the one stored is not the version just before."""
        ...

    async def workers(self) -> Sequence[KnownWorker]:
        """Every worker that is remembered, by worker id."""
        ...

    async def remember_worker(self, worker: KnownWorker, term: int) -> None:
        """Keep what is known of a worker in place of what was known of that worker id."""
        ...

    async def forget_worker(self, worker_id: str, term: int) -> None:
        """Drop what is known of a worker; nothing where nothing is."""
        ...
