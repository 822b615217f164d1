"""How many deliveries a worker holds unacked, over all its shards."""

from functools import partial
from typing import Any

import pytest
from support.hosting import until

from troupe.broker.addressing import mailbox
from troupe.broker.envelope import MAX_PAYLOAD
from troupe.broker.memory import MemoryBroker
from troupe.chassis.clock import SystemClock
from troupe.dataplane.actors.budget import UNACKED
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.session import Owner


class Asking(MemoryBroker):
    """Notes what was asked for, by queue."""

    def __init__(self) -> None:
        super().__init__()
        self.prefetches: dict[str, int] = {}
        self.changes = 0

    def changed(self, times: int) -> bool:
        return self.changes >= times

    async def consume(self, queue: str, handler: Any, prefetch: int = 0) -> Any:
        self.prefetches[queue] = prefetch
        subscription: Any = await super().consume(queue, handler, prefetch)
        limit = subscription.limit

        async def limited(prefetch: int) -> None:
            self.prefetches[queue] = prefetch
            self.changes += 1
            await limit(prefetch)

        subscription.limit = limited
        return subscription


@pytest.mark.parametrize(
    ("shards", "budget", "prefetch"), [(1, 2**28, 32), (32, 2**28, 32), (128, 2**28, 8), (64, 2**20, 1)]
)
async def test_all_shards_together_keep_to_the_budget(shards: int, budget: int, prefetch: int) -> None:
    broker = Asking()
    await broker.declare(shards)
    async with Host.hosting(
        MemoryStateStore(), broker, Hub(), SystemClock(), worker_id="w", behaviour=lambda _: None, unacked_budget=budget
    ) as host:
        await host.hold([Owner(shard, 1, "i") for shard in range(shards)])
        assert list(broker.prefetches.values()) == [prefetch] * shards


async def test_they_keep_to_it_as_shards_come_and_go() -> None:
    broker = Asking()
    await broker.declare(128)
    async with Host.hosting(
        MemoryStateStore(), broker, Hub(), SystemClock(), worker_id="w", behaviour=lambda _: None
    ) as host:
        for shards, prefetch, changes in (
            (20, 32, 0),
            (32, 32, 0),
            (40, 16, 32),
            (128, 8, 40),
            (32, 32, 32),
            (10, 32, 0),
        ):
            broker.changes = 0
            await host.hold([Owner(shard, 1, "i") for shard in range(shards)])
            await until(partial(broker.changed, changes))
            held = [broker.prefetches[mailbox(shard)] for shard in range(shards)]
            assert held == [prefetch] * shards
            assert sum(held) * MAX_PAYLOAD <= UNACKED
            assert broker.changes == changes, "no more of them than are needed"
