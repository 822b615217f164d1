"""Several senders write to many sessions, and sessions to each other, while workers are killed, stopped and their
shards moved, connections cut and stalled, publishers blocked, consumers thrown out: nothing confirmed is lost, nothing
takes effect twice, and each sender's messages take effect in its order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support import proxy, rabbitmq, redis_server
from support.driven_fleet import DrivenFleet, WorkerProcess, driven_fleet
from support.fleets import actor
from support.recording_actor import STARTS
from support.senders import Senders

from troupe.v1.resource_pb2 import ActorSpec

SHARDS, SESSIONS, SENDERS, EACH = 6, 10, 5, 24
WORKERS = ("w0", "w1", "w2")
STORM, KINDS = 20.0, 5
"""Seconds that faults go on at least, and until there were so many kinds of them."""
RECORDER = actor("recorder", ActorSpec(entry_point="support.recording_actor:Recorder"))


class Storm:
    """What befalls the fleet, one thing after another."""

    def __init__(
        self, fleet: DrivenFleet, node: rabbitmq.Node, lines: dict[str, proxy.Proxy], dice: random.Random
    ) -> None:
        self._fleet, self._node, self._lines, self._dice = fleet, node, lines, dice
        self.befell: list[str] = []

    async def rage(self, seconds: float) -> None:
        """For so long, and on until `KINDS` different things have befallen it, however slow the machine is."""
        faults: tuple[Callable[[], Awaitable[None]], ...] = (
            self.kill,
            self.kill,
            self.freeze,
            self.freeze_and_move,
            self.hand_over,
            self.hand_over,
            self.cut,
            self.stall,
            self.block,
            self.kill_blocked,
            self.kill_blocked,
            self.throw_out,
        )
        ends = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < ends or len(set(self.befell)) < KINDS:
            fault = self._dice.choice(faults)
            self.befell.append(fault.__name__)
            await fault()
            await asyncio.sleep(self._dice.uniform(0.0, 1.0))

    async def kill(self) -> None:
        worker = self._worker()
        shards = self._fleet.owned(worker.worker_id)
        await worker.kill()
        others = [name for name in WORKERS if name != worker.worker_id]
        if self._dice.random() < 0.5:
            await self._fleet.place({shard: self._dice.choice(others) for shard in shards})
            await self._fleet.start(worker.worker_id)
            await self._fleet.place({})
        else:
            await self._fleet.start(worker.worker_id)
            await self._fleet.place(dict.fromkeys(shards, worker.worker_id))

    async def freeze(self) -> None:
        worker = self._worker()
        worker.freeze()
        await asyncio.sleep(self._dice.choice((0.5, 3.0)))
        worker.thaw()

    async def freeze_and_move(self) -> None:
        """Its shards are given away while it sleeps, and it learns of it from the store, or late."""
        worker = self._worker()
        worker.freeze()
        others = [name for name in WORKERS if name != worker.worker_id]
        shards = self._fleet.owned(worker.worker_id)
        await self._fleet.place({shard: self._dice.choice(others) for shard in shards})
        await asyncio.sleep(self._dice.choice((0.5, 2.0)))
        worker.thaw()
        await asyncio.sleep(0.5)
        await self._fleet.place({})

    async def hand_over(self) -> None:
        shards = self._dice.sample(range(SHARDS), 2)
        await self._fleet.hand_over({shard: self._dice.choice(WORKERS) for shard in shards})

    async def cut(self) -> None:
        self._lines[self._worker().worker_id].cut()

    async def stall(self) -> None:
        line = self._lines[self._worker().worker_id]
        line.stall(to_client=self._dice.random() < 0.5)
        await asyncio.sleep(self._dice.choice((0.5, 3.0)))
        line.heal()

    async def block(self) -> None:
        await asyncio.to_thread(self._node.block_publishers)
        await asyncio.sleep(self._dice.choice((0.2, 1.5)))
        await asyncio.to_thread(self._node.unblock_publishers)

    async def kill_blocked(self) -> None:
        """What its turns sent to others is committed and not published when it dies."""
        await asyncio.to_thread(self._node.block_publishers)
        await asyncio.sleep(self._dice.uniform(0.3, 1.0))
        await self.kill()
        await asyncio.to_thread(self._node.unblock_publishers)

    async def throw_out(self) -> None:
        await asyncio.to_thread(self._node.close_connections, self._node.url)

    def _worker(self) -> WorkerProcess:
        return self._fleet.workers[self._dice.choice(WORKERS)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1])
async def test_nothing_confirmed_is_lost_or_repeated_and_order_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        # Given three workers on one RabbitMQ and one Redis
        node = stack.enter_context(rabbitmq.running())
        store = stack.enter_context(redis_server.running(tmp_path))
        fleet = await stack.enter_async_context(
            driven_fleet(
                tmp_path, broker=node.url, state=store.url(), shards=SHARDS, resources=[RECORDER], order_timeout=3
            )
        )
        lines = {}
        for name in WORKERS:
            line = lines[name] = await stack.enter_async_context(proxy.before(node.url))
            await fleet.start(name, broker=line.url(node.url))
        await fleet.place({shard: WORKERS[shard % len(WORKERS)] for shard in range(SHARDS)})

        # When senders write under a storm
        senders = Senders(
            lambda: fleet.workers[dice.choice(WORKERS)], dice, sessions=SESSIONS, each=EACH, pause=2 * STORM / EACH
        )
        storm = Storm(fleet, node, lines, dice)
        async with asyncio.TaskGroup() as tasks:
            for sender in range(SENDERS):
                tasks.create_task(senders.write(f"c{sender}"))
            tasks.create_task(storm.rage(STORM))

        # Then every confirmed message comes to its end, and all holds that must
        await senders.check(fleet.workers["w0"])
