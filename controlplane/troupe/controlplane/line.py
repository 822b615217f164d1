"""The line of revisions as the leader holds it: the newest one and its rollout, and what it could go back to."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from troupe.chassis.errors import TroupeError
from troupe.controlplane import metrics
from troupe.controlplane.outcomes import is_done, is_under_way
from troupe.controlplane.packed import Packed
from troupe.controlplane.revisions import Accept, Head, Summary, summary
from troupe.controlplane.stages import COMPLETE, ROLLING_BACK, name
from troupe.controlplane.stores.port import KEPT_REVISIONS, RevisionStore
from troupe.controlplane.succession import settled
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout, WorkerOutcome

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision: what there is to say of it, and what brings it."""

    about: Summary
    packed: Packed


class Line:
    """One object for one term. Whoever writes holds `turn` from reading `newest` on, and calls `sure` first: what a
    write whose reply was lost has come to is read again then."""

    def __init__(self, store: RevisionStore, term: int, changed: Callable[[Summary], None]) -> None:
        """`changed` is told of the newest revision and of its rollout, each time that either changes."""
        self._store, self._term, self._changed = store, term, changed
        self._sure = False
        self._rolling_back: dict[str, Rollout] = {}
        self.turn = asyncio.Lock()
        self.newest: Revision | None = None
        self.stable: Revision | None = None
        """The newest COMPLETE one before the newest."""

    @property
    def head(self) -> Head:
        """What the next commit is compared with, in this leader's own term."""
        if self.newest is None:
            return Head(0, self._term)
        return Head(self.newest.about.generation, self._term, self.newest.about.revision_id)

    async def sure(self, now: float) -> None:
        """Take up what the store holds, where that is not known. A leader that stopped in the middle may have left
        rollouts to be settled."""
        if self._sure:
            return
        summaries = await self._store.revisions(KEPT_REVISIONS)
        newest = await self._store.revision(summaries[0].revision_id) if summaries else None
        stable = await self._store.last_complete(summaries[0].generation) if summaries else None
        self.newest, self.stable = _revision(newest), _revision(stable)
        rollouts = {about.revision_id: about.rollout for about in summaries}
        self._rolling_back = _rolling_back(rollouts)
        await self._settle(rollouts, now)
        self._sure = True
        self._tell()

    async def commit(self, accepted: Accept, now: float) -> Summary:
        """Append a revision, with what its coming makes of the rollouts before it. Raises what the store does."""
        config, (own, *rest) = accepted.config, accepted.rollouts
        await self._written(self._store.commit(config, now, self.head, accepted.rollouts))
        before, about = self.newest, summary(config, now, own)
        self.newest = Revision(about, Packed.of(config))
        known = self._rolling_back | {config.revision_id: own}
        if before is not None:
            left = Revision(replace(before.about, rollout=rest[0]), before.packed)
            known[left.about.revision_id] = left.about.rollout
            if left.about.rollout.stage == COMPLETE:
                self.stable = left
        _note(about.revision_id, own)
        if before is not None and rest[0].stage != before.about.rollout.stage:
            _note(before.about.revision_id, rest[0])
        self._rolling_back = _rolling_back(known)
        with suppress(TroupeError):  # the revision stands; what is not settled now is before the next write
            await self._settle(known, now)
        self._tell()
        return about

    async def save(self, rollout: Rollout, now: float) -> None:
        """Store the newest revision's rollout, with what follows for the one that it is the way back from. Raises what
        the store does."""
        assert self.newest is not None, "there is no rollout without a revision"
        stage, about = self.newest.about.rollout.stage, self.newest.about
        changed = {about.revision_id: rollout}
        changed |= settled(self._rolling_back | changed, now)
        await self._written(self._store.save_rollouts(list(changed.items()), self._term))
        self.newest = Revision(replace(about, rollout=rollout), self.newest.packed)
        self._rolling_back = _rolling_back(self._rolling_back | changed)
        for revision_id, after in changed.items():
            if revision_id != about.revision_id or after.stage != stage:
                _note(revision_id, after)
        self._tell()

    async def _settle(self, rollouts: Mapping[str, Rollout], now: float) -> None:
        if changed := settled(rollouts, now):
            await self._written(self._store.save_rollouts(list(changed.items()), self._term))
            self._rolling_back = _rolling_back(self._rolling_back | changed)
            for revision_id, after in changed.items():
                _note(revision_id, after)

    async def _written(self, write: Awaitable[None]) -> None:
        self._sure = False
        await write
        self._sure = True

    def _tell(self) -> None:
        metrics.GENERATION.set(self.head.generation)
        rollout = self.newest.about.rollout if self.newest is not None else Rollout()
        outcomes = Counter(_outcome(each) for each in rollout.workers)
        for outcome in ("waiting", "pending", "applied", "failed"):
            metrics.ROLLOUT.labels(outcome).set(outcomes[outcome])
        if self.newest is not None:
            self._changed(self.newest.about)


def _note(revision_id: str, rollout: Rollout) -> None:
    log.info("rollout", revision=revision_id, stage=name(rollout.stage), reason=rollout.reason)
    metrics.ROLLOUTS.labels(name(rollout.stage).lower()).inc()


def _outcome(of: WorkerOutcome) -> str:
    if of.failed:
        return "failed"
    if is_done(of):
        return "applied"
    return "pending" if is_under_way(of) else "waiting"


def _revision(found: tuple[ConfigSpec, Summary] | None) -> Revision | None:
    return Revision(found[1], Packed.of(found[0])) if found is not None else None


def _rolling_back(rollouts: Mapping[str, Rollout]) -> dict[str, Rollout]:
    return {revision_id: rollout for revision_id, rollout in rollouts.items() if rollout.stage == ROLLING_BACK}
