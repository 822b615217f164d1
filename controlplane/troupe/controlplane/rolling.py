"""The newest revision on its way to the workers, and the control plane's own way back."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Never

import structlog

from troupe.chassis.background import background
from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.chassis.ids import uuid7
from troupe.controlplane.line import Line, Revision
from troupe.controlplane.members import Members
from troupe.controlplane.outcomes import Observed
from troupe.controlplane.packed import Packed
from troupe.controlplane.placement import Member
from troupe.controlplane.revisions import reissued, way_back
from troupe.controlplane.rollout import Offer, goes_back, step, wanted
from troupe.controlplane.stores.port import Deposed
from troupe.controlplane.whole import whole
from troupe.v1.status_pb2 import RevisionAttempt, RunningRevision, StatusReport

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RollingTimes:
    """In seconds."""

    debounce: float = 0.1
    """A rollout begins when no further revision has come for this long,"""
    debounce_longest: float = 10.0
    """but no later than this under a stream of Syncs."""
    tick: float = 5.0
    """Between two looks at the clock: deadlines are in minutes."""
    again: float = 1.0
    """After the store did not take what was to be stored."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A revision that a worker knows of."""

    term: int = 0
    generation: int = 0
    content_hash: str = ""

    @property
    def place(self) -> tuple[int, int]:
        return self.term, self.generation


class Rolling:
    """One object for one term. `offer` is told, after it is stored, what each worker is to be brought, if anything, and
    the id of the revision that it is to run, which may be what it runs already."""

    def __init__(
        self,
        line: Line,
        members: Members,
        clock: Clock,
        offer: Callable[[str, Packed | None, str], None],
        *,
        term: int,
        times: RollingTimes,
    ) -> None:
        self._line, self._members, self._clock, self._offer = line, members, clock, offer
        self._term, self._times = term, times
        self._observed: dict[str, Observed] = {}
        self._furthest = _Known()
        self._exceeded = False
        self._stirred, self._committed = asyncio.Event(), asyncio.Event()

    def stir(self) -> None:
        """Something has changed that the rollout may depend on: who is alive, say."""
        self._stirred.set()

    def committed(self) -> None:
        """There is a new newest revision."""
        self._committed.set()
        self._stirred.set()

    def report(self, report: StatusReport) -> int | None:
        """The newest process of a worker reported. A term, this leader's or a later one, where the worker knows a
        revision from it that the store does not hold."""
        self._observe(Observed.of(report))
        known = max(
            _known(report.running), _known(report.last_attempt), key=lambda known: (known.term, known.generation)
        )
        if not self._is_ahead(known):
            return None
        if known.term >= self._term:
            self._exceeded = True
            return known.term
        self._furthest = _further(self._furthest, known)
        self._stirred.set()
        return None

    def answer(self, member: Member, attempt: RevisionAttempt) -> None:
        """The newest process of a worker answered an Apply."""
        observed = self._observed.get(member.worker_id)
        if observed is not None and observed.instance_id == member.instance_id:
            self._observe(replace(observed, attempt=attempt))

    def _observe(self, observed: Observed) -> None:
        if self._observed.get(observed.worker_id) != observed:
            self._observed[observed.worker_id] = observed
            self._stirred.set()

    async def run(self) -> Never:
        """Roll out until cancelled. Raises Deposed where another leads."""
        async with background() as group:
            group.create_task(self._ticking())
            while True:
                await self._stirred.wait()
                await self._debounced()
                self._stirred.clear()
                try:
                    async with self._line.turn:
                        await whole(self._advance())
                except Deposed:
                    raise
                except TroupeError as error:
                    log.warning("rollout waits for the store", error=str(error))
                    await self._clock.sleep(self._times.again)
                    self._stirred.set()

    async def _ticking(self) -> Never:
        while True:
            self._stirred.set()
            await self._clock.sleep(self._times.tick)

    async def _debounced(self) -> None:
        begun = self._clock.monotonic()
        while self._committed.is_set() and self._clock.monotonic() - begun < self._times.debounce_longest:
            self._committed.clear()
            await self._clock.sleep(self._times.debounce)
        self._committed.clear()

    async def _advance(self) -> None:
        now, line = self._clock.now(), self._line
        await line.sure(now)
        if line.newest is None or self._exceeded:
            return
        if self._is_ahead(self._furthest):
            await self._reissue(line.newest, now)
        seen = self._seen()
        rollout = step(line.newest.about, seen, now)
        if rollout != line.newest.about.rollout:
            await line.save(rollout, now)
        stable = line.stable
        if stable is not None and goes_back(line.newest.about, stable.about):
            await self._go_back(line.newest, stable, now)
        self._bring(seen)

    async def _go_back(self, newest: Revision, stable: Revision, now: float) -> None:
        accepted = way_back(uuid7(), self._line.head, newest.about.rollout, stable.packed.config(), now)
        about = await self._line.commit(accepted, now)
        log.warning(
            "rolled back by itself",
            failed=newest.about.revision_id,
            to=stable.about.revision_id,
            revision=about.revision_id,
            why=newest.about.rollout.reason,
        )
        self._stirred.set()

    async def _reissue(self, newest: Revision, now: float) -> None:
        """The store is older than its workers: it was restored from a backup. What it holds becomes a revision that
        comes after all that they know."""
        accepted = reissued(uuid7(), self._line.head, newest.about.rollout, newest.packed.config(), now)
        about = await self._line.commit(accepted, now)
        log.warning(
            "reissued what a restored store holds", content=newest.about.revision_id, revision=about.revision_id
        )

    def _bring(self, seen: list[Observed]) -> None:
        newest, stable = self._line.newest, self._line.stable
        assert newest is not None
        offers = wanted(newest.about, stable.about if stable is not None else None, seen)
        runs = {observed.worker_id: observed.running for observed in seen}
        for worker in self._members:
            name = worker.member.worker_id
            match offers.get(name, Offer.NOTHING):
                case Offer.NEWEST:
                    self._offer(name, newest.packed, newest.about.revision_id)
                case Offer.STABLE if stable is not None:
                    self._offer(name, stable.packed, stable.about.revision_id)
                case _:
                    running = runs.get(name)
                    self._offer(name, None, running.revision_id if running is not None else "")

    def _seen(self) -> list[Observed]:
        """The workers that are alive, as they were last heard."""
        seen = []
        for worker in self._members:
            member = worker.member
            if not self._members.alive(member.worker_id):
                continue
            observed = self._observed.get(member.worker_id)
            if observed is None or observed.instance_id != member.instance_id:
                observed = Observed(member.worker_id, member.instance_id, heard=False)
            seen.append(replace(observed, draining=observed.draining or worker.draining))
        return seen

    def _is_ahead(self, known: _Known) -> bool:
        """Whether the newest revision that is stored does not come after what a worker knows, and is another one."""
        newest = self._line.newest
        if newest is None:
            return known.place > (0, 0)
        if known.place == newest.packed.place:
            return known.content_hash != newest.packed.content_hash
        return known.place > newest.packed.place


def _further(one: _Known, other: _Known) -> _Known:
    return max(one, other, key=lambda known: known.place)


def _known(of: RunningRevision | RevisionAttempt) -> _Known:
    return _Known(of.term, of.generation, of.content_hash)
