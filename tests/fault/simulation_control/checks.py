"""What must hold of every write and at every end, said without the rules that it checks."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fault.simulation_control.worker import REFUSED, Process

from troupe.controlplane.placement import Placement
from troupe.controlplane.revisions import Head
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout

LEASE, RELEASE = 10.0, 30.0
ALMOST = 0.94
"""Clocks drift, and what was heard was said a moment before."""


@dataclass
class Checks:
    """One schedule's. `found` are the promises that were broken."""

    time: Callable[[], float]
    process: Callable[[str], Process | None]
    """By instance id."""
    found: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)
    """The stages that rollouts were seen at in the end."""
    asked: dict[str, str] = field(default_factory=dict)
    """What users were told is committed, and no restored backup took away: content by revision id."""
    contents: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Every revision that was ever committed, by id: its hash and what it holds."""
    by_users: set[str] = field(default_factory=set)
    """Ids that users made."""
    heard: dict[tuple[str, int], float] = field(default_factory=dict)
    """When a process was last heard by the leader of a term, by the ids of both."""
    began: dict[int, float] = field(default_factory=dict)
    """When the leader of a term began."""
    _epochs: dict[tuple[int, int], str] = field(default_factory=dict)
    _revoked: dict[tuple[int, int], float] = field(default_factory=dict)
    _term: int = 0
    _head: tuple[str, bool] = ("", False)
    """The newest revision, and whether it is a way back that nobody asked for."""

    def broken(self, what: str) -> None:
        self.found.append(f"{self.time():.1f} s: {what}")

    def restored(self, kept: set[str], head: str) -> None:
        """The store is a backup now, which holds these revisions."""
        self.asked = {revision_id: content for revision_id, content in self.asked.items() if revision_id in kept}
        self._epochs.clear()
        self._term, self._head = 0, (head, False)
        self.counts["restored"] += 1

    def wrote(self, term: int, stored: int) -> None:
        if term != stored:
            self.broken(f"term {term} wrote while the store is in term {stored}")
        if term < self._term:
            self.broken(f"term {term} wrote after term {self._term}")
        self._term = max(term, self._term)

    def committed(self, config: ConfigSpec, rollouts: Sequence[Rollout], head: Head) -> None:
        self.counts["committed"] += 1
        newest, way_back = self._head
        if config.parent_revision_id != newest or config.generation != head.generation + 1:
            self.broken(f"revision {config.revision_id[-3:]} does not follow the newest")
        if config.revision_id in self.contents:
            self.broken(f"id {config.revision_id[-3:]} is used twice")
        self.contents[config.revision_id] = (config.content_hash, _body(config))
        back = rollouts[0].rollback_of_revision_id
        self.counts["by itself"] += config.revision_id not in self.by_users
        alone = bool(back) and config.revision_id not in self.by_users
        if alone:
            self.counts["ways back"] += 1
            if back != newest:
                self.broken("a way back from another than the newest")
            if way_back:
                self.broken("a way back from a way back")
        self._head = (config.revision_id, alone)

    def runs(self, process: Process) -> None:
        """What this process runs is one revision that was committed, and all of it."""
        running = process.applier.running
        if running is None:
            return
        config = running.config
        if self.contents.get(config.revision_id) != (config.content_hash, _body(config)):
            self.broken(f"{process.instance_id} runs what was never committed")

    def placed(self, before: Placement, after: Placement, term: int) -> None:
        self.counts["placements"] += 1
        now = self.time()
        for number, (old, new) in enumerate(zip(before.shards, after.shards, strict=True)):
            if new is None:
                if old is not None:
                    self.broken(f"shard {number} has no owner any more")
                continue
            if old is not None and new.epoch < old.epoch:
                self.broken(f"the epoch of shard {number} went back")
            if self._epochs.setdefault((number, new.epoch), new.owner.instance_id) != new.owner.instance_id:
                self.broken(f"epoch {new.epoch} of shard {number} has two owners")
            if new.revoked:
                self._revoked.setdefault((number, new.epoch), now)
            if old is None or old.owner.instance_id == new.owner.instance_id:
                continue
            self.counts["moves"] += 1
            self._let_go(number, old.epoch, old.owner.instance_id, term)

    def _let_go(self, number: int, epoch: int, instance_id: str, term: int) -> None:
        """The shard leaves this process: it has handed it over, or had its time."""
        process = self.process(instance_id)
        if process is None or not process.alive:
            return
        held = process.held.get(number)
        if held is None or held.epoch != epoch or held.state == REFUSED:
            return
        if process.had_a_twin():
            return
        now = self.time()
        if now - self.heard.get((instance_id, term), self.began.get(term, now)) >= LEASE * ALMOST:
            self.counts["taken from who was silent"] += 1
            return
        revoked = self._revoked.get((number, epoch))
        if revoked is not None and now - revoked >= RELEASE * ALMOST:
            self.counts["taken from who was slow"] += 1
            return
        self.broken(f"shard {number} was taken from {instance_id}, which holds it")


def _body(config: ConfigSpec) -> bytes:
    return b"".join(resource.SerializeToString(deterministic=True) for resource in config.resources)
