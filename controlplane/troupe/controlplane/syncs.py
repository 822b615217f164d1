"""Sync and Rollback as they run: decide, commit, and tell whoever rolls out. One at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from troupe.chassis.clock import Clock
from troupe.chassis.errors import Aborted, ResourceExhausted, TroupeError
from troupe.controlplane import metrics
from troupe.controlplane.line import Line
from troupe.controlplane.revisions import Accept, Repeat, Summary, decide, roll_back, summary
from troupe.controlplane.stores.port import Deposed, RevisionStore
from troupe.controlplane.whole import whole
from troupe.v1.control_plane_pb2 import RollbackRequest, SyncRequest
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout

log = structlog.get_logger()

MAX_WAITING = 16
"""Calls at once: each may hold 16 MiB, and all but one of those from one parent are in vain."""


class Syncs:
    """Takes Syncs and Rollbacks into the line of revisions. `committed` is called after each that became the newest;
    one whose reply was lost is found by whoever takes the line's turn next."""

    def __init__(self, store: RevisionStore, line: Line, clock: Clock, committed: Callable[[], None]) -> None:
        self._store, self._line, self._clock, self._committed = store, line, clock, committed
        self._waiting = 0

    async def sync(self, request: SyncRequest) -> Summary:
        """The revision that the request became, now or before. With `validate_only`, the one that it would become,
        without a rollout. Raises what `decide` does, ResourceExhausted when too many wait, and what the store
        raises."""
        async with self._taking():
            stored = await self._store.revision(request.revision_id)
            newest, now = self._newest(), self._clock.now()
            # In a thread: ten thousand resources take a second to check, and workers renew their leases meanwhile.
            decision = await asyncio.to_thread(
                decide, request, self._line.head, stored[0] if stored else None, newest, now
            )
            if request.validate_only and isinstance(decision, Accept):
                metrics.SYNCS.labels("validated").inc()
                return summary(decision.config, now)
            return await self._done(decision, stored)

    async def roll_back(self, request: RollbackRequest) -> Summary:
        """The revision that goes back, now or before. Raises what the decision of that name does, ResourceExhausted
        when too many wait, and what the store raises."""
        async with self._taking():
            head, newest = self._line.head, self._newest()
            stored = await self._store.revision(request.revision_id)
            found = (
                await self._store.revision(request.to_revision_id)
                if request.to_revision_id
                else await self._store.last_complete(head.generation)
            )
            target = found[0] if found is not None else None
            decision = await asyncio.to_thread(roll_back, request, head, stored, newest, target, self._clock.now())
            return await self._done(decision, stored)

    @asynccontextmanager
    async def _taking(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise ResourceExhausted("TOO_MANY_SYNCS", f"{MAX_WAITING} Syncs wait already; try again", retry_after=1.0)
        self._waiting += 1
        try:
            async with self._line.turn:
                await whole(self._line.sure(self._clock.now()))
                yield
        except TroupeError:
            metrics.SYNCS.labels("refused").inc()
            raise
        finally:
            self._waiting -= 1

    def _newest(self) -> Rollout:
        return self._line.newest.about.rollout if self._line.newest is not None else Rollout()

    async def _done(self, decision: Accept | Repeat, stored: tuple[ConfigSpec, Summary] | None) -> Summary:
        if isinstance(decision, Repeat):
            assert stored is not None, "only what is stored is repeated"
            metrics.SYNCS.labels("repeated").inc()
            self._committed()  # its first reply may have been an error of the store, and nobody told
            return stored[1]
        return await whole(self._commit(decision))

    async def _commit(self, accepted: Accept) -> Summary:
        try:
            about = await self._line.commit(accepted, self._clock.now())
        except Deposed:
            raise
        except Aborted as error:
            raise Aborted(
                error.reason, str(error), metadata={"current_revision_id": (await self._store.head()).revision_id}
            ) from error
        metrics.SYNCS.labels("accepted").inc()
        log.info(
            "revision committed",
            revision=about.revision_id,
            generation=about.generation,
            resources=about.resource_count,
        )
        self._committed()
        return about
