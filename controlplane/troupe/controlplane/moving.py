"""Shards on their way from owner to owner: revoked, released, assigned; each step stored before anybody hears of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.controlplane import metrics
from troupe.controlplane.members import Members
from troupe.controlplane.placement import Candidate, Member, Placement, following, past
from troupe.controlplane.stores.port import RevisionStore
from troupe.controlplane.stuck import Stuck
from troupe.controlplane.whole import whole
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment
from troupe.v1.status_pb2 import ShardState, StatusReport

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Revoke:
    """Since when a shard's owner is to hand it over, and by which placement it knows."""

    owner: Member
    known_by: tuple[int, int]
    since: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a placement follows from. The same again needs no second look."""

    version: int
    candidates: tuple[Candidate, ...]
    alive: frozenset[str]
    released: frozenset[tuple[int, int]]


class Shards:
    """The placement of one fleet in one term of its leader. `bring` gets each new PlaceRequest, serialised."""

    def __init__(
        self,
        store: RevisionStore,
        members: Members,
        clock: Clock,
        bring: Callable[[bytes], None],
        *,
        term: int,
        wanted: int,
        release_timeout: float,
        stalled_timeout: float,
        stuck_after: float,
    ) -> None:
        """An owner gets `release_timeout` seconds to hand a shard over, one that is stuck `stalled_timeout`, and none
        for the shards by which it is."""
        self._store, self._members, self._clock, self._bring = store, members, clock, bring
        self._term, self._wanted = term, wanted
        self._release_timeout, self._stalled_timeout = release_timeout, stalled_timeout
        self._stuck = Stuck(stuck_after)
        self._placement = Placement.empty(store.shard_count)
        self._revokes: dict[tuple[int, int], _Revoke] = {}
        self._released: set[tuple[int, int]] = set()
        self._refused: dict[Member, Mapping[int, int]] = {}
        self._brought: tuple[int, frozenset[str] | None, frozenset[str]] | None = None
        self._seen: _Seen | None = None
        self._doubtful = False

    @property
    def placement(self) -> Placement:
        """The newest placement that is stored."""
        return self._placement

    @property
    def resting(self) -> frozenset[str]:
        """The processes that answered and did not work, and have no shards until they are well again."""
        return self._stuck.resting

    async def restore(self) -> None:
        """Take up the placement that is stored, as it is."""
        self._adopt(await self._store.placement())

    def reported(self, member: Member, report: StatusReport) -> bool:
        """Take note of what a worker's newest process has released, and of what its state store refuses it. Whether
        that calls for a look."""
        self._stuck.reported(report, self._clock.monotonic())
        if refused := {shard.shard: shard.store_epoch for shard in report.shards if shard.store_epoch}:
            self._refused[member] = refused
        else:
            self._refused.pop(member, None)
        if self._revokes and report.HasField("placement"):
            knows = (report.placement.term, report.placement.version)
            holds = {shard.shard for shard in report.shards if shard.state != ShardState.SHARD_STATE_REFUSED}
            for key, revoke in self._revokes.items():
                if revoke.owner.instance_id == member.instance_id and revoke.known_by <= knows and key[0] not in holds:
                    self._released.add(key)
        return bool(refused) or not self._released <= (self._seen.released if self._seen else frozenset())

    async def review(self) -> bool:
        """Look at who is there and what has been released, and do what follows; whether that was a change. One call at
        a time. Raises what the store raises; looking again then does what is left to do."""
        before = self._placement.version
        await whole(self._look())
        return self._placement.version != before

    async def _look(self) -> None:
        if self._doubtful:
            self._adopt(await self._store.placement())
            self._doubtful = False
        for member, refused in list(self._refused.items()):
            await self._go_past(member, refused)
        candidates = self._judged()
        self._overdue()
        seen = _Seen(
            self._placement.version,
            candidates,
            self._members.instances(),
            frozenset(self._released),
        )
        if seen != self._seen and (self._placement.version or len(seen.candidates) >= self._wanted):
            await self._save(following(self._placement, seen.candidates, seen.alive, seen.released))
        self._seen = seen
        self._tell()

    def _judged(self) -> tuple[Candidate, ...]:
        """Who may own shards: all candidates but those that rest, unless no other is left."""
        candidates = {candidate.member.instance_id: candidate for candidate in self._members.candidates()}
        for name, shards in self._stuck.judge(candidates, self._clock.monotonic()).items():
            metrics.STUCK.inc()
            worker_id = candidates[name].member.worker_id
            log.error(
                "worker answers and does not work, giving its shards to others", worker=worker_id, stuck=sorted(shards)
            )
        working = tuple(each for name, each in candidates.items() if name not in self._stuck.resting)
        return working or tuple(candidates.values())

    async def _go_past(self, member: Member, refused: Mapping[int, int]) -> None:
        if self._members.current(member) is None:
            del self._refused[member]
            return
        placement = past(self._placement, refused, member)
        if placement is not self._placement:
            log.warning("state store refused a worker, going past its epochs", worker=member.worker_id, shards=refused)
            await self._save(placement)

    def _overdue(self) -> None:
        """An owner that is alive and never releases is passed over: the fence keeps it from writing."""
        now = self._clock.monotonic()
        for key, revoke in self._revokes.items():
            if now - revoke.since >= self._patience(revoke.owner, key[0]) and key not in self._released:
                self._released.add(key)
                metrics.OVERDUE.inc()
                log.warning("shard not released in time, given away", shard=key[0], worker=revoke.owner.worker_id)

    def _patience(self, owner: Member, shard: int) -> float:
        if owner.instance_id not in self._stuck.resting:
            return self._release_timeout
        return 0.0 if shard in self._stuck.shards(owner.instance_id) else self._stalled_timeout

    async def _save(self, placement: Placement) -> None:
        if placement is self._placement:
            return
        try:
            await self._store.save_placement(placement, self._term)
        except TroupeError:
            self._doubtful = True  # it may be stored all the same: the next look starts from what is
            raise
        moved = sum(
            now is not None and (then is None or now.epoch != then.epoch)
            for then, now in zip(self._placement.shards, placement.shards, strict=True)
        )
        self._adopt(placement)
        metrics.MOVES.inc(moved)
        log.info("shards placed", version=placement.version, moved=moved, revoked=len(self._revokes))

    def _adopt(self, placement: Placement) -> None:
        self._placement = placement
        revoked = {
            (number, shard.epoch): shard.owner
            for number, shard in enumerate(placement.shards)
            if shard is not None and shard.revoked
        }
        now = self._clock.monotonic()
        known_by = (self._term, placement.version)
        self._revokes = {key: self._revokes.get(key) or _Revoke(owner, known_by, now) for key, owner in revoked.items()}
        self._released &= self._revokes.keys()
        metrics.REVOKES.set(len(revoked))
        metrics.PLACEMENT_VERSION.set(placement.version)

    def _tell(self) -> None:
        """Bring the placement, and who is alive and who drains, where any of it has changed."""
        live, draining = self._members.live(self._clock.monotonic()), self._members.draining()
        if live is not None:
            # Nobody waits for what one may still have under way that does not get on.
            live -= self._stuck.resting
        now = (self._placement.version, live, draining)
        if not self._placement.version or now == self._brought:
            return
        self._brought = now
        self._bring(self._request(live, draining).SerializeToString())

    def _request(self, live: frozenset[str] | None, draining: frozenset[str]) -> PlaceRequest:
        return PlaceRequest(
            term=self._term,
            version=self._placement.version,
            shard_count=len(self._placement.shards),
            shards=[
                ShardAssignment(
                    shard=number,
                    epoch=shard.epoch,
                    worker_id=shard.owner.worker_id,
                    instance_id=shard.owner.instance_id,
                    address=shard.owner.address,
                    revoked=shard.revoked,
                )
                for number, shard in enumerate(self._placement.shards)
                if shard is not None
            ],
            live_instance_ids=sorted(live or ()),
            draining_instance_ids=sorted(draining),
        )
