"""Leading, for as long as the store says so: the shell around a Candidacy."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, assert_never

import structlog

from troupe.chassis.background import background
from troupe.chassis.clock import Clock
from troupe.chassis.errors import Aborted, Unavailable
from troupe.chassis.outage import Outage
from troupe.controlplane.candidacy import Candidacy, LeaderTimes, Renew, StepDown, Take, Wait
from troupe.controlplane.stores.port import Deposed, Leadership, RevisionStore
from troupe.controlplane.whole import whole

log = structlog.get_logger()

Reign = Callable[[int], Coroutine[Any, Any, None]]
"""What only a leader does, in the term that it is called with."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Who leads, as far as this process knows."""

    term: int
    """0 before the record was first read, and before the first leader."""
    holder: str
    """Empty where nobody leads."""
    address: str
    """`host:port` of the leader's ControlPlaneService; empty where nobody leads."""
    leads: bool
    """It is this process."""


class Leader:
    """One process' part in leading the fleet. `holder` names it, and no other process has or had that name; `address`
    is where the others send whoever wants to write."""

    def __init__(
        self, store: RevisionStore, clock: Clock, holder: str, address: str, times: LeaderTimes | None = None
    ) -> None:
        self._store, self._clock, self._holder, self._address = store, clock, holder, address
        self._times = times or LeaderTimes()
        self._candidacy = Candidacy(holder, self._times)
        self._beyond = 0
        self._outage = Outage("leadership not renewed or taken, the store cannot be used", clock.monotonic)
        self._exceeded = asyncio.Event()
        self._standing = Standing(0, "", "", leads=False)
        self._moved = asyncio.Event()

    @property
    def standing(self) -> Standing:
        """Who leads, as it was last seen."""
        return self._standing

    @property
    def held(self) -> Leadership | None:
        """The record, while this process leads."""
        return self._candidacy.held

    async def changed(self, known: Standing) -> Standing:
        """The standing, once it is another than `known`: at once where it is so already."""
        while self._standing == known:
            await self._moved.wait()
        return self._standing

    def exceed(self, term: int) -> None:
        """Somebody knows of this term. If the one in which this process leads is not later, as after the store was
        restored from a backup, its reign ends, and it leads again in one that is."""
        self._beyond = max(self._beyond, term)
        if self.held is not None and self.held.term <= self._beyond:
            self._exceeded.set()

    async def run(self, reign: Reign) -> None:
        """Lead whenever nobody else does, until this is cancelled.

        While this process leads, `reign(term)` runs. It is cancelled as soon as another leads, the store has taken no
        renewal for the renew deadline, or `exceed` says so; `held` is None before it notices. The next reign begins
        after this one has ended, `retry` seconds later at the least, and in a later term.

        A reign that returns, raises Deposed or Unavailable, or is cancelled with this call, has ended by itself: this
        process resigns, so that another can lead at once, and unless it is cancelled tries to lead again. Anything
        else that a reign raises is raised here after resigning. So is what the store raises, Unavailable aside: it is
        tried again for ever."""
        while True:
            term = await self._won()
            try:
                await self._reigned(reign, term)
            except* (Deposed, Unavailable) as ended:
                log.warning("leads no more", term=term, reason=_first(ended))
            # Reigns that end at once, each time, must not drive up the term as fast as the store can write.
            await self._clock.sleep(self._times.retry)

    async def _reigned(self, reign: Reign, term: int) -> None:
        self._exceeded.clear()
        self.exceed(self._beyond)  # heard of while the store was asked
        log.info("leads", term=term)
        try:
            async with background() as tasks:
                tasks.create_task(self._renew())
                tasks.create_task(self._expire())
                tasks.create_task(self._give_way())
                await reign(term)
        finally:
            if (held := self.held) is not None:
                self._step_down()
                await whole(self._resign(held))

    async def _resign(self, held: Leadership) -> None:
        try:
            async with asyncio.timeout(self._times.retry):
                await self._store.resign(held)
        except (Unavailable, TimeoutError):
            log.warning("leadership not given back", term=held.term, hint="others lead after the lease")

    # --- each look at the record

    async def _won(self) -> int:
        """The term in which this process leads, once it does."""
        while True:
            try:
                until = await self._step()
            except Deposed:
                until = self._clock.monotonic() + self._times.retry
            if self.held is not None:
                return self.held.term
            await self._sleep(until)

    async def _renew(self) -> None:
        """Renew while this process leads. Raises Deposed."""
        until = self._clock.monotonic() + self._times.retry
        while True:
            await self._sleep(until)
            until = await self._step()

    async def _expire(self) -> None:
        """Raises Deposed at the renew deadline, however long the store takes over a renewal."""
        while (deadline := self._candidacy.deadline) is not None and self._clock.monotonic() < deadline:
            await self._sleep(deadline)
        raise self._deposed("the store took no renewal before the renew deadline")

    async def _give_way(self) -> None:
        """Raises Deposed when a term is known that is as late as this one."""
        await self._exceeded.wait()
        raise self._deposed(f"term {self._beyond} was given out before, so the store is older than the fleet")

    async def _step(self) -> float:
        """Look at the record and do what follows. Returns when to look again; raises Deposed where this process leads
        no more."""
        begun = self._clock.monotonic()
        try:
            decision = await self._looked(begun)
        except Aborted:
            decision = self._candidacy.refused(self._clock.monotonic())
        except Unavailable as error:
            self._outage.failed(error)
            decision = self._candidacy.failed(begun, self._clock.monotonic())
        else:
            self._outage.over()
        self._tell()
        match decision:
            case Wait(until):
                return until
            case StepDown(why):
                raise self._deposed(why)
            case _:
                assert_never(decision)

    async def _looked(self, begun: float) -> Wait | StepDown:
        decision = self._candidacy.saw(await self._store.leadership(), self._clock.monotonic())
        match decision:
            case Take(seen):
                written = await self._store.lead(seen, self._holder, self._address, self._beyond)
            case Renew(held):
                written = await self._store.renew(held)
            case Wait() | StepDown():
                return decision
            case _:
                assert_never(decision)
        return self._candidacy.wrote(written, begun, self._clock.monotonic())

    # --- what others are told

    def _deposed(self, why: str) -> Deposed:
        self._step_down()
        return Deposed("NOT_LEADER", f"this control plane leads no more: {why}")

    def _step_down(self) -> None:
        self._candidacy.stopped()
        self._tell()

    def _tell(self) -> None:
        seen, leads = self._candidacy.seen, self.held is not None
        if seen is None:
            return
        # One that stopped without saying so in the store is nobody to send others to.
        leading = seen.holder != self._holder or leads
        standing = Standing(seen.term, seen.holder if leading else "", seen.address if leading else "", leads=leads)
        if standing != self._standing:
            self._standing = standing
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    async def _sleep(self, until: float) -> None:
        await self._clock.sleep(until - self._clock.monotonic())


def _first(ended: BaseException) -> str:
    while isinstance(ended, BaseExceptionGroup):
        ended = ended.exceptions[0]
    return str(ended)
