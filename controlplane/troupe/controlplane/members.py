"""Who is in the fleet: the workers that are known, whose lease has not ended, who drains. Time is an argument."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from troupe.chassis.errors import FailedPrecondition, NotFound, ResourceExhausted
from troupe.controlplane.placement import Candidate, Member
from troupe.controlplane.stores.port import KnownWorker
from troupe.controlplane.weights import weight_of
from troupe.v1.status_pb2 import Capacity

REMEMBERED_INSTANCES = 16
"""Earlier processes of one worker that are still told that another has taken their place."""


@dataclass(slots=True)
class _Lease:
    worker: KnownWorker
    ends: float
    lost: bool = False


class Members:
    """The workers of one fleet as its leader sees them. A worker is LOST when nothing was heard of it for `lease`
    seconds, or earlier where its process is known to be gone; every word of it makes it alive again. All `now` are
    seconds of one monotonic clock; `began` is when this leader did."""

    def __init__(self, lease: float, max_workers: int, began: float) -> None:
        self._lease, self._max_workers = lease, max_workers
        self._all_had_a_lease = began + lease
        self._known: dict[str, _Lease] = {}

    def __iter__(self) -> Iterator[KnownWorker]:
        return (held.worker for held in self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def known(self, worker_id: str) -> KnownWorker | None:
        """What is known of the worker; None for a stranger."""
        held = self._known.get(worker_id)
        return held.worker if held is not None else None

    def admitted(self, member: Member, capacity: Capacity, weight: float | None) -> KnownWorker:
        """What is to be known of a process that registers. The same process goes on as it was, draining included;
        another one of its worker begins anew, with the last attempt of the one before. Raises FailedPrecondition
        for a process whose worker has a newer one, ResourceExhausted where the fleet is full."""
        name, before = member.worker_id, self.known(member.worker_id)
        if before is None:
            if len(self._known) >= self._max_workers:
                raise ResourceExhausted(
                    "TOO_MANY_WORKERS",
                    f"the fleet has {self._max_workers:,} workers, the most it may have",
                    retry_after=60,
                )
            return KnownWorker(member, None, capacity, weight)
        if member.instance_id in before.replaced:
            raise FailedPrecondition(
                "REPLACED",
                f"another process has registered as {name} since; stop one of them, or give it another --worker-id",
            )
        if member.instance_id == before.member.instance_id:
            return replace(before, member=member, capacity=capacity, weight=weight)
        replaced = (*before.replaced, before.member.instance_id)[-REMEMBERED_INSTANCES:]
        return KnownWorker(member, before.last_attempt, capacity, weight, replaced=replaced)

    def renewed(self, worker: KnownWorker, now: float) -> bool:
        """This is what is known of the worker, and its lease begins now. Whether it was LOST."""
        name, before = worker.member.worker_id, self._known.get(worker.member.worker_id)
        self._known[name] = _Lease(worker, now + self._lease)
        return before is not None and before.lost

    def amended(self, worker: KnownWorker) -> None:
        """This is what is known of a worker that is known; its lease runs on."""
        self._known[worker.member.worker_id].worker = worker

    def current(self, member: Member) -> KnownWorker | None:
        """What is known of the worker, where this process at this address is its newest."""
        known = self.known(member.worker_id)
        return known if known is not None and known.member == member else None

    def ended(self, member: Member, owns: bool, now: float) -> bool:
        """The process is gone, long before its lease is over. False, and nothing changed, for one that drains and still
        `owns` shards (its listener closes while its turns still run), and in the first lease, in which nobody is
        missed."""
        held = self._known.get(member.worker_id)
        if held is None or held.lost or held.worker.member != member or (held.worker.draining and owns):
            return False
        if now < self._all_had_a_lease:
            return False
        held.ends = now
        return True

    def expired(self, now: float) -> list[KnownWorker]:
        """The workers whose lease ended since the last call: they are LOST from now on."""
        ended = [held for held in self._known.values() if not held.lost and held.ends <= now]
        for held in ended:
            held.lost = True
        return [held.worker for held in ended]

    def gone(self, seconds: float, now: float) -> list[str]:
        """The workers that nobody waits for: those that have been LOST for `seconds` at least, and those that drained
        before they were."""
        return [
            name
            for name, held in self._known.items()
            if held.lost and (held.worker.draining or held.ends <= now - seconds)
        ]

    def drain(self, worker_id: str) -> KnownWorker:
        """What is to be known of the worker once it drains. Raises NotFound where no such worker is alive."""
        held = self._known.get(worker_id)
        if held is None or held.lost:
            raise NotFound("WORKER_UNKNOWN", f"no worker {worker_id[:64]} is alive; list the workers that are")
        return replace(held.worker, draining=True)

    def alive(self, worker_id: str) -> bool:
        """Whether the worker is known and not LOST."""
        held = self._known.get(worker_id)
        return held is not None and not held.lost

    def instances(self) -> frozenset[str]:
        """The processes whose leases have not ended, those that have said nothing yet in the first lease included."""
        return frozenset(held.worker.member.instance_id for held in self._known.values() if not held.lost)

    def live(self, now: float) -> frozenset[str] | None:
        """The same; None in the first lease: some of them may be gone, and others at work that are not known."""
        return None if now < self._all_had_a_lease else self.instances()

    def draining(self) -> frozenset[str]:
        """The processes that are alive and are to hand over what they have."""
        return frozenset(
            held.worker.member.instance_id for held in self._known.values() if held.worker.draining and not held.lost
        )

    def candidates(self) -> list[Candidate]:
        """Who may own shards, by name: the workers that are alive and do not drain."""
        return [
            Candidate(held.worker.member, weight_of(held.worker.capacity, held.worker.weight))
            for _, held in sorted(self._known.items())
            if not held.lost and not held.worker.draining
        ]

    def forget(self, worker_id: str) -> None:
        """The worker is gone for good."""
        self._known.pop(worker_id, None)
