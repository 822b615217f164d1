"""What a control plane shows while another one leads: what the store holds, and nothing that only the leader hears."""

from typing import Never

import structlog

from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.controlplane.infos import info
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.port import RevisionStore

log = structlog.get_logger()

LOOK = 2.0
"""Seconds between two looks at the store."""


async def mirror(store: RevisionStore, status: FleetStatus, clock: Clock) -> Never:
    """Keep `status` as the store has it: the workers with their last attempts, the newest revision and its rollout.
    Workers that are lost are not told from others, and nothing is said of what they run or carry. A store that cannot
    be read now is read again later."""
    status.unheard()
    readable = True
    while True:
        try:
            workers = await store.workers()
            newest = await store.revisions(1)
        except TroupeError as error:
            if readable:
                log.warning("store not read, showing what it held before", error=str(error))
            readable = False
        else:
            readable = True
            for worker in workers:
                status.known(worker)
            for name in status.names() - {worker.member.worker_id for worker in workers}:
                status.forget(name)
            status.current(info(newest[0], newest[0].revision_id) if newest else None)
        await clock.sleep(LOOK)
