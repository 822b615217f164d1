"""A RevisionStore in this process's memory: for tests, and for fleets that need not outlive it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from google.protobuf.message import Message

from troupe.controlplane.placement import Placement
from troupe.controlplane.revisions import Head, Summary, summary
from troupe.controlplane.stores import rules
from troupe.controlplane.stores.port import KnownWorker, Leadership
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout


class MemoryRevisionStore:
    """Lives as long as the object. Each call is one step of the event loop."""

    def __init__(self, shard_count: int) -> None:
        self.shard_count = shard_count
        self._leadership = Leadership(0)
        self._revisions: list[_Kept] = []
        self._placement = Placement.empty(shard_count)
        self._workers: dict[str, KnownWorker] = {}

    async def leadership(self) -> Leadership:
        return self._leadership

    async def lead(self, seen: Leadership, holder: str, address: str, beyond: int = 0) -> Leadership:
        rules.unchanged(self._leadership, seen)
        self._leadership = rules.led(seen, holder, address, beyond)
        return self._leadership

    async def renew(self, held: Leadership) -> Leadership:
        rules.unchanged(self._leadership, held)
        self._leadership = rules.renewed(held)
        return self._leadership

    async def resign(self, held: Leadership) -> None:
        if rules.still(self._leadership, held):
            self._leadership = Leadership(held.term)

    async def head(self) -> Head:
        if not self._revisions:
            return Head(0, self._leadership.term)
        newest = self._revisions[-1].about
        return Head(newest.generation, self._leadership.term, newest.revision_id)

    async def commit(self, config: ConfigSpec, created_at: float, after: Head, rollouts: Sequence[Rollout]) -> None:
        rules.follows(await self.head(), after)
        own, *before = rollouts
        if before:
            self._revisions[-1].rolled(before[0])
        self._revisions.append(_Kept(config.SerializeToString(), summary(config, created_at)))
        self._revisions[-1].rolled(own)
        complete = [kept.about.generation for kept in self._revisions if rules.complete(kept.about.rollout)]
        self._revisions = [
            kept
            for kept in self._revisions
            if kept.about.generation > rules.outdated(config.generation) or kept.about.generation in complete[-1:]
        ]

    async def revision(self, revision_id: str) -> tuple[ConfigSpec, Summary] | None:
        return next((kept.read() for kept in self._revisions if kept.about.revision_id == revision_id), None)

    async def revisions(self, limit: int, before: int | None = None) -> list[Summary]:
        newest_first = (kept.read_about() for kept in reversed(self._revisions))
        return [about for about in newest_first if before is None or about.generation < before][:limit]

    async def last_complete(self, before: int) -> tuple[ConfigSpec, Summary] | None:
        for kept in reversed(self._revisions):
            if kept.about.generation < before and rules.complete(kept.about.rollout):
                return kept.read()
        return None

    async def save_rollouts(self, rollouts: Sequence[tuple[str, Rollout]], term: int) -> None:
        rules.in_term(self._leadership.term, term)
        for revision_id, rollout in rollouts:
            for kept in self._revisions:
                if kept.about.revision_id == revision_id:
                    kept.rolled(rollout)

    async def placement(self) -> Placement:
        return self._placement

    async def save_placement(self, placement: Placement, term: int) -> None:
        rules.in_term(self._leadership.term, term)
        rules.next_placement(self._placement.version, placement)
        self._placement = placement

    async def workers(self) -> Sequence[KnownWorker]:
        return [_copied(self._workers[worker_id]) for worker_id in sorted(self._workers)]

    async def remember_worker(self, worker: KnownWorker, term: int) -> None:
        rules.in_term(self._leadership.term, term)
        self._workers[worker.member.worker_id] = _copied(worker)

    async def forget_worker(self, worker_id: str, term: int) -> None:
        rules.in_term(self._leadership.term, term)
        self._workers.pop(worker_id, None)


@dataclass(slots=True)
class _Kept:
    """A revision. What goes in and out are copies: what becomes of messages elsewhere changes nothing here."""

    config: bytes
    about: Summary

    def rolled(self, rollout: Rollout) -> None:
        self.about = replace(self.about, rollout=_copy(rollout))

    def read(self) -> tuple[ConfigSpec, Summary]:
        return ConfigSpec.FromString(self.config), self.read_about()

    def read_about(self) -> Summary:
        return replace(self.about, rollout=_copy(self.about.rollout))


M = TypeVar("M", bound=Message)


def _copy(message: M) -> M:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _copied(worker: KnownWorker) -> KnownWorker:
    attempt = worker.last_attempt
    return replace(worker, last_attempt=None if attempt is None else _copy(attempt), capacity=_copy(worker.capacity))
