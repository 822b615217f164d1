"""How many deliveries a worker holds unacked, over all its shards."""

from typing import Any

import pytest

from troupe.broker.memory import MemoryBroker
from troupe.chassis.clock import SystemClock
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import Owner


class Asking(MemoryBroker):
    """Notes what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.prefetches: list[int] = []

    async def consume(self, queue: str, handler: Any, prefetch: int = 0) -> Any:
        self.prefetches.append(prefetch)
        return await super().consume(queue, handler, prefetch)


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
        assert broker.prefetches == [prefetch] * shards
