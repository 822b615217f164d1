"""Which shards this process holds, as the control plane last said."""

import asyncio

from troupe.chassis.errors import FailedPrecondition, Unavailable
from troupe.dataplane.state.port import Owner
from troupe.v1.data_plane_pb2 import PlaceRequest

PATIENCE = 5.0
"""Seconds that a caller waits for a worker's first placement."""


class Placement:
    """The newest placement that this worker was given. `instance_id` is this process."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._order = (0, 0)
        self._shard_count = 0
        self._mine: list[Owner] = []
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
    def known(self) -> bool:
        """Whether there was one."""
        return self._shard_count > 0

    @property
    def mine(self) -> list[Owner]:
        """The shards that this process is to hold, with the epochs that it holds them under."""
        return list(self._mine)

    def take(self, request: PlaceRequest) -> None:
        """Make `request` the placement. Raises FailedPrecondition for one that is older than what is known, or that
        gives the deployment another number of shards."""
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
        self._order, self._shard_count = order, request.shard_count
        self._mine = [
            Owner(shard.shard, shard.epoch, shard.instance_id)
            for shard in request.shards
            if shard.instance_id == self._instance_id
        ]


def _unplaced() -> Unavailable:
    return Unavailable(
        "NO_PLACEMENT", "the worker has not heard from the control plane yet; try again", retry_after=1.0
    )
