"""Rules of the control plane, each with a way to switch it off: what the simulation misses, it can be trusted with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from fault.simulation_control.network import StoreSeen

from troupe.controlplane import line, placement
from troupe.controlplane.leadership import Leader
from troupe.controlplane.members import Members
from troupe.controlplane.moving import Shards
from troupe.controlplane.placement import Member
from troupe.controlplane.stores import rules

Switch = Callable[[], AbstractContextManager[Any]]


@contextmanager
def no_comparison_with_the_term() -> Iterator[None]:
    """Whoever led writes on. A leader stops by itself in time, so only writes that are late come so far."""
    with mock.patch.object(rules, "in_term"), mock.patch.object(StoreSeen, "in_order", False):
        yield


def no_order_of_the_store() -> AbstractContextManager[Any]:
    """A write that was given up is carried out after those that came later."""
    return mock.patch.object(StoreSeen, "in_order", False)


def no_release() -> AbstractContextManager[Any]:
    """A revoked shard is given away at once."""

    def at_once(self: Shards) -> None:
        self._released.update(self._revokes)

    return mock.patch.object(Shards, "_overdue", at_once)


def no_other_owner_in_a_new_process() -> AbstractContextManager[Any]:
    """A new process goes on under the epochs of the one before."""
    real = placement._holder

    def same(number: int, shard: Any, members: Mapping[str, Member], alive: Any, released: Any) -> Member | None:
        return members.get(shard.owner.worker_id) or real(number, shard, members, alive, released)

    return mock.patch.object(placement, "_holder", same)


def no_leases() -> AbstractContextManager[Any]:
    """Nobody is ever lost."""
    return mock.patch.object(Members, "expired", lambda self, now: [])


def no_first_lease() -> AbstractContextManager[Any]:
    """A new leader takes who has said nothing yet for lost."""
    real = Members.renewed

    def doubting(self: Members, worker: Any, now: float) -> bool:
        known = self.known(worker.member.worker_id)
        result = real(self, worker, now)
        if known is None:
            self._known[worker.member.worker_id].ends = now
        return result

    return mock.patch.object(Members, "renewed", doubting)


def no_replacing() -> AbstractContextManager[Any]:
    """Two processes of one worker take turns."""
    real = Members.admitted

    def admitted(self: Members, member: Member, *given: Any) -> Any:
        if (known := self.known(member.worker_id)) is not None:
            self.amended(replace(known, replaced=()))
        return real(self, member, *given)

    return mock.patch.object(Members, "admitted", admitted)


def no_later_term_after_a_backup() -> AbstractContextManager[Any]:
    """Workers that know more than the store are not listened to."""
    return mock.patch.object(Leader, "exceed")


def no_settling() -> AbstractContextManager[Any]:
    """How a way back went says nothing of the revision that was left."""
    return mock.patch.object(line, "settled", lambda rollouts, now: {})


OFF: Mapping[str, Switch] = {
    name.removeprefix("no_").replace("_", " "): switch for name, switch in globals().items() if name.startswith("no_")
}
