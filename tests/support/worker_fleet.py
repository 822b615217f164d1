"""Several workers in this process that serve over gRPC and share mailboxes and state; the test places the shards."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from support.hosting import Line
from support.serving_worker import SHARDS, ServingWorker, config, serving_worker

from troupe.broker import connect as brokers
from troupe.broker.memory import MemoryBroker
from troupe.broker.port import PREFETCH, Delivery, Subscription
from troupe.dataplane.state import connect as stores
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment
from troupe.v1.resource_pb2 import Resource

if TYPE_CHECKING:
    from troupe.v1.agent_pb2_grpc import AgentServiceAsyncStub


class BrokerLine(Line):
    """A worker's connection to the broker; when it breaks, the broker takes back what the worker had."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self._broker, self._subscriptions = broker, list[Subscription]()

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        if self.cut:
            await asyncio.Event().wait()
        subscription = await self._broker.consume(queue, handler, prefetch)
        self._subscriptions.append(subscription)
        return subscription

    async def break_(self) -> None:
        self.cut = True
        for subscription in self._subscriptions:
            await subscription.close()


class Member:
    """One worker of the fleet, in a task of its own."""

    def __init__(self, name: str, broker: BrokerLine, store: Line) -> None:
        self.name, self.broker, self.store = name, broker, store
        self.address = self.instance = ""
        self._stop = asyncio.Event()
        self._serves: asyncio.Future[ServingWorker] = asyncio.get_running_loop().create_future()

    async def start(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self._task = asyncio.create_task(self._serve(directory, settings))
        await asyncio.wait([self._task, self._serves], return_when=asyncio.FIRST_COMPLETED)
        self.worker = self._serves.result() if self._serves.done() else await self._task
        self.address = self.worker.address

    async def _serve(self, directory: Path, settings: Mapping[str, Any]) -> Any:
        async with serving_worker(directory, worker_id=self.name, **settings) as worker:
            self._serves.set_result(worker)
            await self._stop.wait()

    @property
    def agents(self) -> "AgentServiceAsyncStub":
        return self.worker.agents

    async def freeze(self) -> None:
        """It stalls: it reads and writes nothing more, and the broker has noticed. Its connections stand."""
        self.store.cut = True
        await self.broker.break_()

    async def kill(self) -> None:
        """As near to kill -9 as it comes inside a process: nothing more is written, sent or acked."""
        await self.freeze()
        await self.stop()

    async def stop(self) -> None:
        """In good order, but where it is frozen."""
        self._stop.set()
        await self._task


class WorkerFleet:
    """Make one with `worker_fleet`."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.broker, self.store = MemoryBroker(), MemoryStateStore()
        self.members: dict[str, Member] = {}
        self._directory, self._settings = directory, settings
        self._version = 0
        self._owners: dict[int, tuple[int, Member]] = {}

    async def start(self, name: str, resources: Iterable[Resource]) -> Member:
        """A worker with a revision and no shards."""
        member = self.members[name] = Member(name, BrokerLine(self.broker), Line(self.store))
        with (
            patch.object(brokers, "connected", lambda *_, **__: _given(member.broker)),
            patch.object(stores, "connected", lambda *_, **__: _given(member.store)),
        ):
            await member.start(self._directory, self._settings)
        worker = member.worker
        await worker.apply(config(1, *resources))
        member.instance = (await worker.report()).instance_id
        return member

    async def place(
        self,
        owners: Mapping[int, Member],
        *,
        tell: Iterable[Member] | None = None,
        live: Iterable[Member] = (),
        revoked: Iterable[int] = (),
    ) -> None:
        """The shards that are named get these owners, under new epochs where they are others. `tell`: who hears of
        it, by default everybody."""
        for shard, member in owners.items():
            epoch, before = self._owners.get(shard, (0, None))
            self._owners[shard] = (epoch + (before is not member), member)
        self._version += 1
        request = PlaceRequest(
            term=1,
            version=self._version,
            shard_count=SHARDS,
            shards=[
                ShardAssignment(
                    shard=shard,
                    epoch=epoch,
                    worker_id=member.name,
                    instance_id=member.instance,
                    address=member.address,
                    revoked=shard in set(revoked),
                )
                for shard, (epoch, member) in self._owners.items()
            ],
            live_instance_ids=[member.instance for member in live],
        )
        heard = list(self.members.values()) if tell is None else list(tell)
        await asyncio.gather(*(member.worker.data_plane.Place(request, timeout=10) for member in heard))

    async def give_all(self, member: Member, **options: Any) -> None:
        """Every shard to one worker."""
        await self.place(dict.fromkeys(range(SHARDS), member), **options)


@asynccontextmanager
async def worker_fleet(
    directory: Path, *names: str, resources: Iterable[Resource] = (), **settings: Any
) -> AsyncIterator[WorkerFleet]:
    """Workers of these names; the first owns every shard."""
    fleet = WorkerFleet(directory, settings)
    try:
        for name in names:
            await fleet.start(name, resources)
        await fleet.give_all(fleet.members[names[0]])
        yield fleet
    finally:
        for member in fleet.members.values():
            await member.stop()


@asynccontextmanager
async def _given(line: Line) -> AsyncIterator[Line]:
    yield line
