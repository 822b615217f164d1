"""Revision stores for tests: every backend, and what they are filled with."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from support import redis_server
from support.fleets import fleet

from troupe.chassis.ids import uuid7
from troupe.controlplane.placement import Assignment, Member, Placement
from troupe.controlplane.revisions import Head
from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import Leadership, RevisionStore
from troupe.resources.content import content_hash
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout, RolloutStage, WorkerOutcome

SHARDS = 4
A, B = Member("a", "a-1", "host:1"), Member("b", "b-1", "host:2")
FIRST = Placement(1, (Assignment(1, A), Assignment(3, B, revoked=True), None, None))

PENDING = Rollout(stage=RolloutStage.ROLLOUT_STAGE_PENDING)
COMPLETE = Rollout(
    stage=RolloutStage.ROLLOUT_STAGE_COMPLETE, workers=[WorkerOutcome(worker_id="a", canary=True)], reason="because"
)
SUPERSEDED = Rollout(stage=RolloutStage.ROLLOUT_STAGE_SUPERSEDED, reason="a newer one came")

URLS: Mapping[str, Callable[[Path], str]] = {
    "memory": lambda _: "memory://",
    "sqlite": lambda directory: f"sqlite:///{directory}/controlplane.db",
    "redis": lambda directory: redis_server.shared().url(prefix=str(directory)),
}
"""Where each backend has its store, by a directory. Redis' is a prefix."""
DURABLE = [name for name in URLS if name != "memory"]
"""Those that have everything when the directory is opened again."""

Opening = Callable[[], AbstractAsyncContextManager[RevisionStore]]
"""Opens the store of the test, again and again."""


@asynccontextmanager
async def opening(backend: str, directory: Path, shards: int = SHARDS) -> AsyncIterator[RevisionStore]:
    async with connected(URLS[backend](directory), shards) as store:
        yield store


async def led(store: RevisionStore, holder: str = "me", *, beyond: int = 0) -> Leadership:
    """The leadership that `holder` takes, whoever has it now."""
    return await store.lead(await store.leadership(), holder, f"{holder}:1", beyond)


def following(head: Head, revision_id: str | None = None) -> ConfigSpec:
    """The next revision."""
    return ConfigSpec(
        revision_id=revision_id or uuid7(),
        generation=head.generation + 1,
        term=head.term,
        parent_revision_id=head.revision_id,
        content_hash=content_hash(fleet()),
        resources=fleet(),
    )


async def grown(store: RevisionStore, *rollouts: Rollout) -> Sequence[ConfigSpec]:
    """Revisions with these rollouts, committed one after the other at 100.0, 101.0, and so on."""
    configs = []
    for number, rollout in enumerate(rollouts):
        head = await store.head()
        configs.append(following(head))
        await store.commit(configs[-1], 100.0 + number, head, [rollout])
    return configs
