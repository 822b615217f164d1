"""The control plane, as far as workers hear of it: who owns which shard, what is revoked, and who is said to live."""

import asyncio
import random
from collections.abc import Callable, Sequence

from fault.simulation.history import History
from fault.simulation.worker import Worker

from troupe.dataplane.state.session import Owner

LEASE = 10.0
"""Seconds for which a process that is gone is taken to live."""
PATIENCE = 30.0
"""Seconds that a revoked shard gets to be released, before it is placed elsewhere all the same."""


class ControlPlane:
    """Its word about who lives is, by the seed, missing, true, late, or sometimes wrong."""

    def __init__(
        self, dice: random.Random, history: History, workers: Callable[[], Sequence[Worker]], gone: Sequence[Worker]
    ) -> None:
        """`workers` are those that are there now, `gone` those that were."""
        self._dice, self._history, self._workers, self._gone = dice, history, workers, gone
        self._knows = dice.choice(("nothing", "the truth", "too late", "mostly"))
        self.owners: dict[int, tuple[Worker, int]] = {}
        self.revoked: set[int] = set()
        self.sound = False
        """From now on it says nothing wrong."""

    def give(self, shard: int, worker: Worker) -> None:
        """Under the next epoch."""
        epoch = self.owners[shard][1] + 1 if shard in self.owners else 1
        self.owners[shard] = (worker, epoch)
        self.revoked.discard(shard)
        self._history.log(f"shard {shard} goes to {worker.instance} under epoch {epoch}")

    def tell(self, *told: Worker) -> None:
        for worker in told or self._workers():
            worker.place(self._mine(worker), frozenset(self.revoked), self._live())

    def contradict(self, worker: Worker, shard: int, epoch: int) -> None:
        """Tell a worker that it is the owner under an epoch that is another's."""
        self._history.log(f"shard {shard} is said to be {worker.instance}'s under epoch {epoch} too")
        self._history.counts["contradicted"] += 1
        worker.place([*self._mine(worker), Owner(shard, epoch, worker.instance)], frozenset(self.revoked), self._live())

    def reown(self) -> None:
        """Shards of those that are gone go to others."""
        for shard, (owner, _) in self.owners.items():
            if owner not in self._workers():
                self.give(shard, self._dice.choice(self._workers()))
        self.tell()

    async def keep_telling(self) -> None:
        """Leases end while nothing else happens."""
        while True:
            await asyncio.sleep(LEASE / 2)
            self.tell()

    async def hand_over(self, shard: int) -> None:
        """Revoke, wait until it is released, and place it elsewhere."""
        owner, epoch = self.owners[shard]
        others = [worker for worker in self._workers() if worker is not owner]
        if shard in self.revoked or not others:
            return
        self.revoked.add(shard)
        self._history.log(f"shard {shard} is revoked from {owner.instance}")
        self._history.counts["revoked"] += 1
        self.tell()
        until = asyncio.get_running_loop().time() + PATIENCE
        while asyncio.get_running_loop().time() < until and not owner.dead and owner.holds(shard):
            await asyncio.sleep(0.1)
        if self.owners[shard] != (owner, epoch):
            return
        if self._dice.random() < 0.1:
            self._history.log(f"shard {shard} stays after all")
            self.revoked.discard(shard)
        else:
            self.give(
                shard, self._dice.choice([worker for worker in self._workers() if worker is not owner] or [owner])
            )
        self.tell()

    def _mine(self, worker: Worker) -> list[Owner]:
        return [Owner(shard, epoch, owner.instance) for shard, (owner, epoch) in self.owners.items() if owner is worker]

    def _live(self) -> frozenset[str] | None:
        now = asyncio.get_running_loop().time()
        if self._knows == "nothing":
            return None
        late = LEASE if self._knows == "too late" else 0.0
        live = {worker.instance for worker in self._workers()}
        live.update(worker.instance for worker in self._gone if now < (worker.over or now) + late or not worker.over)
        if self._knows == "mostly" and not self.sound and self._dice.random() < 0.2:
            live.discard(self._dice.choice(sorted(live)))
        return frozenset(live)
