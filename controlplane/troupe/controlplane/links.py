"""The links to all workers of a fleet, one to the newest process of each."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Never

from troupe.chassis.clock import Clock
from troupe.controlplane import metrics
from troupe.controlplane.link import Dial, Heard, Link, LinkTimes
from troupe.controlplane.packed import Packed
from troupe.controlplane.placement import Member
from troupe.controlplane.sending import Sending


@dataclass(slots=True)
class _Linked:
    member: Member
    link: Link
    task: "asyncio.Task[Never]"


@dataclass(slots=True)
class Links:
    """Links are tasks of `group`, which must outlive every call."""

    group: asyncio.TaskGroup
    dial: Dial
    heard: Heard
    clock: Clock
    random: Callable[[], float]
    times: LinkTimes
    _sending: Sending = field(default_factory=Sending)
    _linked: dict[str, _Linked] = field(default_factory=dict)
    _placement: bytes | None = None

    def link(self, member: Member) -> None:
        """Talk to this process of its worker from now on, and no more to the one before. It gets the placement; what
        it is to run must be offered to it."""
        self.cut(member.worker_id)
        link = Link(member, self.dial, self.heard, self.clock, self.random, self.times, self._sending)
        if self._placement is not None:
            link.place(self._placement)
        task = self.group.create_task(link.run(), name=f"link {member.worker_id}")
        self._linked[member.worker_id] = _Linked(member, link, task)

    def cut(self, worker_id: str) -> None:
        """Talk to the worker no more."""
        linked = self._linked.pop(worker_id, None)
        if linked is not None:
            linked.task.cancel()

    def place(self, placement: bytes) -> None:
        """Bring every worker this PlaceRequest."""
        self._placement = placement
        for linked in self._linked.values():
            linked.link.place(placement)

    def offer(self, worker_id: str, offer: Packed | None) -> None:
        """What the worker is to run now; None leaves it with what it has."""
        linked = self._linked.get(worker_id)
        if linked is not None:
            linked.link.offer(offer)

    def count(self) -> None:
        """Bring the metrics up to date."""
        metrics.PARKED.set(sum(linked.link.parked for linked in self._linked.values()))
