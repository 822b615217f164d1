"""Which process holds which shard, as the control plane last said."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from troupe.chassis.errors import FailedPrecondition, Unavailable
from troupe.dataplane.state.session import Owner
from troupe.v1.data_plane_pb2 import PlaceRequest

PATIENCE: Final = 5.0
"""Seconds that a caller waits for a worker's first placement."""


@dataclass(frozen=True, slots=True)
class ShardOwner:
    """Who owns one shard, and `host:port` where it serves."""

    worker_id: str
    instance_id: str
    address: str
    epoch: int


class Placement:
    """The newest placement that this worker was given. `instance_id` is this process."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._order = (0, 0)
        self._draining = False
        self._shard_count = 0
        self._owners: Mapping[int, ShardOwner] = {}
        self._revoked: frozenset[int] = frozenset()
        self._live: frozenset[str] | None = None
        self._first = asyncio.Event()

    @property
    def shard_count(self) -> int:
        """Shards of the deployment. Raises Unavailable before the first placement."""
        if not self._shard_count:
            raise _unplaced()
        return self._shard_count

    async def ready(self) -> None:
        """Wait a little for the mailboxes: a worker that has just started learns of them in a moment. Raises
        Unavailable when it does not."""
        if not self._first.is_set():
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._first.wait()
            except TimeoutError as error:
                raise _unplaced() from error

    def open(self) -> None:
        """The mailboxes of the placement exist."""
        self._first.set()

    @property
    def opened(self) -> bool:
        """Whether they do."""
        return self._first.is_set()

    @property
    def position(self) -> tuple[int, int]:
        """Its place in order, (term, version); (0, 0) before the first."""
        return self._order

    @property
    def draining(self) -> bool:
        """Whether this process is to hand over all it has and exit."""
        return self._draining

    @property
    def known(self) -> bool:
        """Whether there was one."""
        return self._shard_count > 0

    @property
    def mine(self) -> list[Owner]:
        """The shards that are this process's, those to be handed over included, with their epochs."""
        return [
            Owner(shard, owner.epoch, owner.instance_id)
            for shard, owner in self._owners.items()
            if owner.instance_id == self._instance_id
        ]

    @property
    def revoked(self) -> frozenset[int]:
        """Those of `mine` that are to be handed over."""
        return self._revoked

    @property
    def live(self) -> frozenset[str] | None:
        """The processes whose leases have not ended; None while nobody knows."""
        return self._live

    def owner_of(self, shard: int) -> ShardOwner | None:
        """Who owns the shard; None where nobody does, or nothing was heard yet."""
        return self._owners.get(shard)

    def is_mine(self, shard: int) -> bool:
        """Whether the shard is this process's, were it to be handed over."""
        owner = self._owners.get(shard)
        return owner is not None and owner.instance_id == self._instance_id

    def is_gone(self, owner: ShardOwner) -> bool:
        """Whether the process is known to have no lease any more."""
        return self._live is not None and owner.instance_id not in self._live

    def take(self, request: PlaceRequest) -> frozenset[int]:
        """Make `request` the placement; the shards whose owner changed with it. Raises FailedPrecondition for one that
        is older than what is known, or that gives the deployment another number of shards."""
        order = (request.term, request.version)
        if order < self._order:
            raise FailedPrecondition(
                "PLACEMENT_STALE", f"placement {order} is older than {self._order}, which this worker has"
            )
        if self._shard_count not in (0, request.shard_count):
            raise FailedPrecondition(
                "SHARD_COUNT_CHANGED",
                f"the deployment has {self._shard_count} shards and cannot have {request.shard_count}",
            )
        owners = {
            shard.shard: ShardOwner(shard.worker_id, shard.instance_id, shard.address, shard.epoch)
            for shard in request.shards
        }
        changed = {shard for shard in owners.keys() | self._owners.keys() if owners.get(shard) != self.owner_of(shard)}
        self._order, self._shard_count, self._owners = order, request.shard_count, owners
        self._revoked = frozenset(
            shard.shard for shard in request.shards if shard.revoked and shard.instance_id == self._instance_id
        )
        self._live = frozenset(request.live_instance_ids) or None
        self._draining = self._instance_id in request.draining_instance_ids
        return frozenset(changed)


def _unplaced() -> Unavailable:
    return Unavailable(
        "NO_PLACEMENT", "the worker has not heard from the control plane yet; try again", retry_after=1.0
    )
