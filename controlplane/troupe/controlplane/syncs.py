"""Sync as it runs: decide, commit, and tell whoever fans out. One at a time."""

import asyncio
from collections.abc import Callable

import structlog

from troupe.chassis.clock import Clock
from troupe.chassis.errors import Aborted, ResourceExhausted, TroupeError
from troupe.controlplane import metrics
from troupe.controlplane.background import whole
from troupe.controlplane.revisions import Accept, Head, Repeat, Summary, decide, summary
from troupe.controlplane.stores.port import RevisionStore
from troupe.v1.control_plane_pb2 import SyncRequest
from troupe.v1.resource_pb2 import ConfigSpec

log = structlog.get_logger()

MAX_WAITING = 16
"""Syncs at once: each may hold 16 MiB, and all but one of those from one parent are in vain."""


class Syncs:
    """Takes Syncs into the store. `committed` is called with each revision once it is durable, in order."""

    def __init__(self, store: RevisionStore, clock: Clock, committed: Callable[[ConfigSpec], None]) -> None:
        self._store, self._clock, self._committed = store, clock, committed
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def sync(self, request: SyncRequest) -> Summary:
        """The revision that the request became, now or before. With `validate_only`, the one that it would become.
        Raises what `decide` does, ResourceExhausted when too many wait, and what the store raises."""
        if self._waiting >= MAX_WAITING:
            raise ResourceExhausted("TOO_MANY_SYNCS", f"{MAX_WAITING} Syncs wait already; try again", retry_after=1.0)
        self._waiting += 1
        try:
            async with self._turn:
                return await self._taken(request)
        except TroupeError:
            metrics.SYNCS.labels("refused").inc()
            raise
        finally:
            self._waiting -= 1

    async def _taken(self, request: SyncRequest) -> Summary:
        head = await self._store.head()
        stored = await self._store.revision(request.revision_id)
        # In a thread: ten thousand resources take a second to check, and workers renew their leases meanwhile.
        decision = await asyncio.to_thread(decide, request, head, stored[0] if stored else None)
        match decision:
            case Repeat():
                metrics.SYNCS.labels("repeated").inc()
                if decision.config.generation == head.generation:
                    # Its first answer may have been an error of the store, and nobody told.
                    self._committed(decision.config)
                return stored[1] if stored else summary(decision.config, self._clock.now())
            case Accept() if request.validate_only:
                metrics.SYNCS.labels("validated").inc()
                return summary(decision.config, self._clock.now())
            case Accept():
                return await whole(self._commit(decision.config, head))

    async def _commit(self, config: ConfigSpec, head: Head) -> Summary:
        created_at = self._clock.now()
        try:
            await self._store.commit(config, created_at, head)
        except Aborted as error:
            newest = await self._store.head()
            raise Aborted(error.reason, str(error), metadata={"current_revision_id": newest.revision_id}) from error
        metrics.SYNCS.labels("accepted").inc()
        log.info(
            "revision committed",
            revision=config.revision_id,
            generation=config.generation,
            resources=len(config.resources),
        )
        self._committed(config)
        return summary(config, created_at)
