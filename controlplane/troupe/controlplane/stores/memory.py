"""A RevisionStore in this process's memory: for tests, and for fleets that need not outlive it."""

from collections.abc import Sequence
from dataclasses import replace

from troupe.chassis.errors import Aborted
from troupe.controlplane.placement import Placement
from troupe.controlplane.revisions import Head, Summary, summary
from troupe.controlplane.stores.port import KEPT_REVISIONS, KnownWorker
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import RevisionAttempt


class MemoryRevisionStore:
    """Lives as long as the object."""

    def __init__(self, shard_count: int, term: int = 1) -> None:
        self.shard_count = shard_count
        self._term = term
        self._revisions: list[tuple[bytes, Summary]] = []
        self._placement = Placement.empty(shard_count)
        self._workers: dict[str, KnownWorker] = {}

    async def head(self) -> Head:
        return self._head()

    async def commit(self, config: ConfigSpec, created_at: float, after: Head) -> None:
        head = self._head()
        if (head.generation, head.term) != (after.generation, after.term):
            raise Aborted("REVISION_CONFLICT", f"revision {head.revision_id} was committed first; decide again")
        self._revisions.append((config.SerializeToString(), summary(config, created_at)))
        del self._revisions[:-KEPT_REVISIONS]

    async def revision(self, revision_id: str) -> tuple[ConfigSpec, Summary] | None:
        for serialised, about in self._revisions:
            if about.revision_id == revision_id:
                return ConfigSpec.FromString(serialised), about
        return None

    async def revisions(self, limit: int, before: int | None = None) -> list[Summary]:
        newest_first = (about for _, about in reversed(self._revisions))
        return [about for about in newest_first if before is None or about.generation < before][:limit]

    async def placement(self) -> Placement:
        return self._placement

    async def save_placement(self, placement: Placement, term: int) -> None:
        if (self._placement.version, self._term) != (placement.version - 1, term):
            raise Aborted("PLACEMENT_CONFLICT", f"placement {self._placement.version} was stored first; decide again")
        self._placement = placement

    async def workers(self) -> Sequence[KnownWorker]:
        return [self._workers[worker_id] for worker_id in sorted(self._workers)]

    async def remember_worker(self, worker: KnownWorker) -> None:
        attempt = worker.last_attempt
        copied = RevisionAttempt.FromString(attempt.SerializeToString()) if attempt is not None else None
        self._workers[worker.member.worker_id] = replace(worker, last_attempt=copied)

    async def forget_worker(self, worker_id: str) -> None:
        self._workers.pop(worker_id, None)

    def _head(self) -> Head:
        if not self._revisions:
            return Head(0, self._term)
        newest = self._revisions[-1][1]
        return Head(newest.generation, self._term, newest.revision_id)
