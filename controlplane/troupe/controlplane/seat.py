"""Who writes: this process while it leads, and nobody here while another one does."""

import asyncio
from contextlib import suppress
from typing import Never

from troupe.chassis.background import background
from troupe.chassis.errors import Unavailable
from troupe.controlplane import metrics
from troupe.controlplane.leadership import Leader, Standing
from troupe.controlplane.reign import Reign, Surroundings
from troupe.controlplane.standby import mirror

_UNKNOWN = Standing(0, "", "", leads=False)


class Seat:
    """The leader's seat, as one process sees it. One object for one process; `run` keeps it."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._leader: Leader | None = None
        self._reign: Reign | None = None
        self._changed = asyncio.Event()

    async def run(self, leader: Leader) -> None:
        """Lead whenever nobody else does, and show what the store holds while another one leads, until cancelled.
        Raises what `Leader.run` does."""
        self._leader = leader
        async with background() as group:
            group.create_task(self._standing_by())
            group.create_task(self._followed(leader))
            await leader.run(self._led)

    async def settled(self, patience: float) -> None:
        """Wait until this process leads and has taken up what the store holds, or another one leads; or until it is
        not known after `patience` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not self._standing.holder or (self._standing.leads and not self._reigns()):
                    await self._changed.wait()

    def writer(self) -> Reign:
        """Who takes what is to be written. Raises Unavailable, NOT_LEADER, where that is another process, whose
        address the error's metadata name."""
        if self._reign is None or not self._reigns():
            raise self.not_leader()
        return self._reign

    def not_leader(self) -> Unavailable:
        """What is answered to whoever wants to write, where this process does not lead."""
        standing = self._standing
        if standing.address and not standing.leads:
            return Unavailable(
                "NOT_LEADER",
                f"another control plane leads; call {standing.address}",
                retry_after=1.0,
                metadata={"leader_address": standing.address},
            )
        return Unavailable(
            "NOT_LEADER", "no control plane leads yet, or it has only just begun; try again", retry_after=1.0
        )

    @property
    def _standing(self) -> Standing:
        return self._leader.standing if self._leader is not None else _UNKNOWN

    def _reigns(self) -> bool:
        return self._standing.leads and self._reign is not None and self._reign.begun.is_set()

    async def _led(self, term: int) -> None:
        self._reign = reign = Reign(self._around, term, self._exceed)
        try:
            async with background() as group:
                group.create_task(self._beginning(reign))
                self._note()
                await reign.run()
        finally:
            self._reign = None
            self._note()

    def _exceed(self, term: int) -> None:
        if self._leader is not None:
            self._leader.exceed(term)

    async def _beginning(self, reign: Reign) -> None:
        await reign.begun.wait()
        self._note()

    async def _standing_by(self) -> Never:
        while True:
            changed = self._changed
            if self._reign is not None:
                await changed.wait()
                continue
            async with background() as group:
                group.create_task(mirror(self._around.store, self._around.status, self._around.clock))
                await changed.wait()

    async def _followed(self, leader: Leader) -> Never:
        standing = leader.standing
        while True:
            metrics.LEADER.set(standing.leads)
            metrics.TERM.set(standing.term)
            self._note()
            standing = await leader.changed(standing)

    def _note(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
