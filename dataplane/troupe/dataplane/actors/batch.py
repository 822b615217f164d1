"""A turn that settles several messages in one commit: no calls in it, and no message takes the others with it."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Never

from troupe.chassis.errors import FailedPrecondition
from troupe.dataplane.state.control import Promise


class BatchHasNoCalls(FailedPrecondition):
    """The turn of a batch may not journal, call tools, or wait. Reason BATCH_HAS_NO_CALLS."""

    def __init__(self) -> None:
        super().__init__(
            "BATCH_HAS_NO_CALLS",
            "a turn that takes a batch cannot call tools, make promises or wait; do that in the turn of one message",
        )


class NoJournal:
    """See `troupe.dataplane.actors.behaviour.Journal`: that of a batch."""

    @property
    def kept(self) -> Mapping[str, bytes]:
        return {}

    @property
    def promises(self) -> Mapping[str, Promise]:
        return {}

    async def keep(
        self,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        raise BatchHasNoCalls

    def calling(self) -> AbstractContextManager[None]:
        raise BatchHasNoCalls

    async def suspend(self, promise_ids: Collection[str]) -> Never:
        raise BatchHasNoCalls
