"""All shards that a worker holds: how it takes them, hands them over and gives them up."""

import asyncio
from collections.abc import Container, Iterable

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.port import PREFETCH
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.actor import Actor
from troupe.dataplane.actors.budget import share
from troupe.dataplane.actors.hot import HotSessions
from troupe.dataplane.actors.leaving import Leaving
from troupe.dataplane.actors.progress import HeldUp
from troupe.dataplane.actors.shard import Shard
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.session import Owner
from troupe.v1 import status_pb2
from troupe.v1.status_pb2 import ShardState, ShardStatus

AT_ONCE = 1.0
"""Seconds that `hold` waits for shards to be acquired: as a rule milliseconds, but stores and brokers can be away."""
AGAIN = 1.0
"""Seconds until a shard is acquired again that was given up over a defect."""

log = structlog.get_logger()


class Shards:
    """Of one worker. `unacked_budget` is for all of them together, in bytes."""

    def __init__(self, world: World, hot: HotSessions, leaving: Leaving, unacked_budget: int) -> None:
        self._world, self._hot, self._leaving = world, hot, leaving
        self._unacked_budget, self._prefetch = unacked_budget, PREFETCH
        self._held: dict[int, Shard] = {}
        self._wanted: dict[int, Owner] = {}
        self._refused: dict[Owner, int] = {}
        self._moved = asyncio.Event()
        self.position = (0, 0)
        """Of the placement that `statuses` follow from."""
        self.live: Container[str] | None = None
        """The processes that may still run turns; None: nobody knows."""
        self.closed = False
        """Set: nothing more is acquired."""

    def __len__(self) -> int:
        """Those that are being handed over included."""
        return len(self._held)

    async def hold(
        self,
        owners: Iterable[Owner],
        revoked: Container[int],
        live: Container[str] | None,
        position: tuple[int, int],
    ) -> None:
        """See `Host.hold`."""
        mine = {owner.shard: owner for owner in owners}
        self.live = live
        self._wanted = {number: owner for number, owner in mine.items() if number not in revoked}
        self._refused = {owner: epoch for owner, epoch in self._refused.items() if mine.get(owner.shard) == owner}
        lost = []
        for number, shard in self._held.items():
            if mine.get(number) != shard.owner:
                # Another has it by now, even where it is still being handed over: what is unacked is the other's.
                lost.append(shard)
            elif number in revoked and not shard.releasing:
                shard.releasing = True
                self._world.spawn(self._hand_over(shard))
        await asyncio.gather(*map(self._let_go, lost))
        acquiring = self._acquire_wanted()
        self.position = position
        self.note()
        if acquiring:
            await asyncio.wait(acquiring, timeout=AT_ONCE)

    def statuses(self) -> list[ShardStatus]:
        """See `Host.statuses`."""
        refused = [
            ShardStatus(
                shard=owner.shard, epoch=owner.epoch, state=status_pb2.SHARD_STATE_REFUSED, store_epoch=store_epoch
            )
            for owner, store_epoch in self._refused.items()
        ]
        held = [shard.status() for shard in self._held.values()]
        return sorted(held + refused, key=lambda status: status.shard)

    def states(self) -> list[tuple[Owner, ShardState.ValueType]]:
        """See `Host.states`."""
        refused = [(owner, status_pb2.SHARD_STATE_REFUSED) for owner in self._refused]
        return [(shard.owner, shard.state) for shard in self._held.values()] + refused

    def held_up(self) -> dict[int, HeldUp]:
        """What has been held up longest in each shard where something is."""
        return {number: held for number, shard in self._held.items() if (held := shard.held_up()) is not None}

    def owner(self, number: int) -> Owner | None:
        """Under which name this worker writes the shard; None when it does not hold it."""
        held = self.get(number)
        return held.owner if held else None

    def get(self, number: int) -> Shard | None:
        """The shard, where its sessions are this worker's to care for."""
        held = self._held.get(number)
        return held if held and held.active else None

    def find(self, owner: Owner, key: SessionKey) -> Actor:
        """The session's actor, brought into memory if it is not there. The worker holds its shard as `owner`."""
        return self._held[owner.shard].find(key)

    async def moved(self) -> None:
        """Wait for the next `note`."""
        await self._moved.wait()

    def note(self) -> None:
        """What is held has changed, or what runs of what is not held any more."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def release(self) -> None:
        """Hand over every shard that is not being handed over yet; returns when none is held."""
        shards = [shard for shard in self._held.values() if not shard.releasing]
        for shard in shards:
            shard.releasing = True
        await asyncio.gather(*map(self._hand_over, shards))
        while self._held:
            await self._moved.wait()

    async def sweep(self) -> None:
        """See `Shard.sweep`."""
        for shard in list(self._held.values()):
            await shard.sweep()

    async def let_go(self) -> None:
        """Stop everything at once: nothing is acked, nothing is written."""
        for shard in list(self._held.values()):
            await self._let_go(shard)

    def actors(self) -> list[Actor]:
        """Those of the shards that are held."""
        return [actor for shard in self._held.values() for actor in shard.actors.values()]

    def fenced(self, owner: Owner, epoch: int) -> None:
        """The store refused `owner`, as another has the shard under `epoch`. Only what was opened under the refused
        epoch is closed: this process may hold the shard under a newer one."""
        metrics.FENCED.inc()
        shard = self._held.get(owner.shard)
        if shard is not None and shard.owner == owner and not shard.lost:
            log.warning("shard lost to another owner", shard=owner.shard, epoch=owner.epoch, newer_epoch=epoch)
            self._refused[owner] = epoch
            if not shard.releasing:
                self._world.spawn(self._lose(shard))

    def scheduled(self, owner: Owner, due: float) -> None:
        """Something is due in this owner's shard then, in seconds since the epoch."""
        shard = self._held.get(owner.shard)
        if shard is not None and shard.owner == owner:
            shard.schedule.expect(due)

    def defective(self, owner: Owner) -> None:
        """Start the shard anew: what was delivered comes again, through the inbox, where its starts are counted."""
        metrics.DEFECTS.inc()
        shard = self._held.get(owner.shard)
        if shard is not None and shard.owner == owner and not (shard.lost or shard.releasing):
            self._world.spawn(self._restart(shard))

    def _acquire_wanted(self) -> list[asyncio.Task[None]]:
        if self.closed:
            return []
        new = [
            owner for number, owner in self._wanted.items() if number not in self._held and owner not in self._refused
        ]
        self._share_out(len(self._held) + len(new))
        for owner in new:
            self._held[owner.shard] = Shard(owner, self._world, self._hot.find, self._prefetch)
        return [self._world.spawn(self._acquire(self._held[owner.shard])) for owner in new]

    async def _acquire(self, shard: Shard) -> None:
        await shard.acquire()
        self.note()

    def _share_out(self, shards: int) -> None:
        """The budget is for all shards together, of which there are so many now."""
        prefetch = share(self._unacked_budget, shards)
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            for shard in self._held.values():
                self._world.spawn(shard.limit(prefetch))

    async def _lose(self, shard: Shard) -> None:
        await self._let_go(shard)
        # Whoever follows a message of it hears no more of it here.
        self._world.hub.stir()

    async def _restart(self, shard: Shard) -> None:
        await self._let_go(shard)
        await self._world.clock.sleep(AGAIN)
        self._acquire_wanted()

    async def _let_go(self, shard: Shard) -> None:
        shard.abandon()
        self._forget(shard, shard.actors.values())
        await shard.close()

    def _forget(self, shard: Shard, actors: Iterable[Actor]) -> None:
        if self._held.get(shard.owner.shard) is shard:
            del self._held[shard.owner.shard]
        for actor in actors:
            self._hot.forget(actor)
        self.note()

    async def _hand_over(self, shard: Shard) -> None:
        """Release the shard, and take it again where that is wanted by then. Turns that run go on."""
        leaving = await shard.release()
        for actor in leaving:
            self._leaving.add(actor)
        self._forget(shard, [actor for actor in shard.actors.values() if actor not in leaving])
        for actor in leaving:
            self._world.spawn(self._leaving.see_off(actor))
        self._acquire_wanted()
