"""Which shards this process holds, as the control plane last said."""

from troupe.chassis.errors import FailedPrecondition, Unavailable
from troupe.dataplane.state.port import Owner
from troupe.v1.data_plane_pb2 import PlaceRequest


class Placement:
    """The newest placement that this worker was given. `instance_id` is this process."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._order = (0, 0)
        self._shard_count = 0
        self._mine: list[Owner] = []

    @property
    def shard_count(self) -> int:
        """Shards of the deployment. Raises Unavailable before the first placement."""
        if not self._shard_count:
            raise Unavailable(
                "NO_PLACEMENT", "the worker has not heard from the control plane yet; try again", retry_after=1.0
            )
        return self._shard_count

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
