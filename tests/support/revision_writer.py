"""A control plane's leading, alone: it seeks leadership of a revision store, and commits revisions while it leads.

Run as `python -m support.revision_writer URL NAME`. It prints `sees TERM` when it first sees a leader, `leads TERM`
when it begins to, `stored TERM GENERATION ID` when a commit has returned, and `over TERM` when it leads no more.
"""

import asyncio
import contextlib
import logging
import sys

import structlog
from support.revision_stores import PENDING, SHARDS, following

from troupe.chassis.background import background
from troupe.chassis.clock import SystemClock
from troupe.chassis.errors import Unavailable
from troupe.controlplane.candidacy import LeaderTimes
from troupe.controlplane.leadership import Leader
from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import RevisionStore

TIMES = LeaderTimes(lease=1.5, renew_deadline=1.0, retry=0.2)


async def reign(store: RevisionStore, term: int) -> None:
    say("leads", term)
    try:
        while True:
            # What may have been stored or not is found by reading the head again.
            with contextlib.suppress(Unavailable):
                head = await store.head()
                if head.term == term:
                    config = following(head)
                    await store.commit(config, 1.0, head, [PENDING])
                    say("stored", term, config.generation, config.revision_id)
            await asyncio.sleep(0.005)
    finally:
        say("over", term)


async def main(url: str, name: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with connected(url, SHARDS) as store:
        leader = Leader(store, SystemClock(), name, f"{name}:1", TIMES)
        async with background() as tasks:
            tasks.create_task(look(leader))
            await leader.run(lambda term: reign(store, term))


async def look(leader: Leader) -> None:
    standing = leader.standing
    while not standing.holder:
        standing = await leader.changed(standing)
    say("sees", standing.term)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
