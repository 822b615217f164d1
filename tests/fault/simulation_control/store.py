"""The revision store in memory, watched: what must hold of every write is checked as it happens."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from troupe.controlplane.placement import Placement
from troupe.controlplane.revisions import Head
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import KnownWorker
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout


@dataclass(frozen=True, slots=True)
class Backup:
    """All that a store held at one time."""

    held: tuple[Any, ...]


class WatchedStore(MemoryRevisionStore):
    """`wrote` is called with the writer's term before each write that the store takes, `committed` and `placed` before
    those."""

    def __init__(self, shard_count: int) -> None:
        super().__init__(shard_count)
        self.wrote: Callable[[int, int], None] = lambda term, stored: None
        self.committed: Callable[[ConfigSpec, Sequence[Rollout], Head], None] = lambda *_: None
        self.placed: Callable[[Placement, Placement, int], None] = lambda *_: None

    def backup(self) -> Backup:
        return Backup((self._leadership, list(map(copy, self._revisions)), self._placement, dict(self._workers)))

    def restore(self, backup: Backup) -> None:
        self._leadership, revisions, self._placement, workers = backup.held
        self._revisions, self._workers = list(map(copy, revisions)), dict(workers)

    async def commit(self, config: ConfigSpec, created_at: float, after: Head, rollouts: Sequence[Rollout]) -> None:
        head, stored = await self.head(), self._leadership.term
        await super().commit(config, created_at, after, rollouts)
        self.wrote(after.term, stored)
        self.committed(config, rollouts, head)

    async def save_rollouts(self, rollouts: Sequence[tuple[str, Rollout]], term: int) -> None:
        await super().save_rollouts(rollouts, term)
        self.wrote(term, self._leadership.term)

    async def save_placement(self, placement: Placement, term: int) -> None:
        before = self._placement
        await super().save_placement(placement, term)
        self.wrote(term, self._leadership.term)
        self.placed(before, placement, term)

    async def remember_worker(self, worker: KnownWorker, term: int) -> None:
        await super().remember_worker(worker, term)
        self.wrote(term, self._leadership.term)

    async def forget_worker(self, worker_id: str, term: int) -> None:
        await super().forget_worker(worker_id, term)
        self.wrote(term, self._leadership.term)
