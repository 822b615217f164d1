"""A worker's runtime in this process without gRPC: its gateway, its host, and back ends behind URLs."""

import contextlib
import gc
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from bench.actors.counter import Counter
from troupe.broker import connect as brokers
from troupe.broker.addressing import SessionKey
from troupe.broker.port import Broker
from troupe.broker.retry import RetryPolicy
from troupe.chassis import lifecycle
from troupe.chassis.clock import Clock, SystemClock
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.actors.world import Ending
from troupe.dataplane.behaviours.actor import ActorBehaviour, ActorClass
from troupe.dataplane.behaviours.state import StateForm
from troupe.dataplane.behaviours.whole import Whole
from troupe.dataplane.blobs import connect as blobs
from troupe.dataplane.blobs.payloads import Payloads
from troupe.dataplane.gateway import Gateway
from troupe.dataplane.load import TurnMeter
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement
from troupe.dataplane.state import connect as stores
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Owner
from troupe.dataplane.tools.executor import InProcessExecutor
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment

SHARDS = 128
"""The default of a fleet."""


MAX_HOT = 20_000
"""Sessions in memory at most: more than any of these benchmarks has."""


def run(work: Awaitable[None]) -> None:
    """Run it as a worker's process runs: on a loop of its own, with the garbage collector as a service sets it."""

    async def main(_: lifecycle.Stop) -> int:
        await work
        return 0

    gc.freeze()  # as `lifecycle.importing` does
    lifecycle.run(main)


@contextlib.asynccontextmanager
async def hosting(
    broker: Broker,
    store: StateStore,
    actor: ActorClass = Counter,
    *,
    shards: int = SHARDS,
    held: Sequence[int] | None = None,
    ended: Callable[[Ending], None] | None = None,
) -> AsyncIterator[tuple[Gateway, Host]]:
    """A runtime that holds shards, all by default, and runs `actor` for every target, as a worker does for a
    revision's. `ended` hears how each message ended."""
    clock, hub = SystemClock(), Hub()
    await store.declare(shards)
    await broker.declare(shards)
    owners = [Owner(shard, 1, "instance") for shard in (range(shards) if held is None else held)]
    placement = Placement("instance")
    placed = [
        ShardAssignment(shard=owner.shard, epoch=1, worker_id="bench", instance_id="instance") for owner in owners
    ]
    placement.take(PlaceRequest(term=1, version=1, shard_count=shards, shards=placed))
    placement.open()
    with tempfile.TemporaryDirectory() as directory:
        payloads = Payloads(blobs.connected(f"file://{directory}"))
        behaviour = Whole(_behaviour(actor, clock), payloads)
        async with (
            Host.hosting(
                store,
                broker,
                hub,
                clock,
                worker_id="bench",
                behaviour=lambda _: behaviour,
                ended=ended or TurnMeter(clock).ended,
                max_hot_sessions=MAX_HOT,
                drain_timeout=1.0,
            ) as host,
            Gateway.opened(
                broker, store, host, clock, placement=placement, peers=Peers(), generation=lambda: 1
            ) as gateway,
        ):
            await host.hold(owners)
            yield gateway, host


def _behaviour(actor: ActorClass, clock: Clock) -> ActorBehaviour:
    """With the defaults of the kind Actor."""
    return ActorBehaviour(
        revision_id="revision",
        generation=1,
        make=actor,
        form=StateForm.of(actor, "Actor/default/counter"),
        tools={},
        compensations={},
        executor=InProcessExecutor(),
        clock=clock,
        retry=RetryPolicy(),
        deadline=600.0,
        retention=30 * 24 * 3600.0,
        max_batch=1,
        asks=False,
    )


@contextlib.asynccontextmanager
async def opened(broker_url: str, state_url: str) -> AsyncIterator[tuple[Broker, StateStore]]:
    async with brokers.connected(broker_url) as broker, stores.connected(state_url) as store:
        yield broker, store


def session(number: int) -> SessionKey:
    return SessionKey("default", "default", "counter", f"s{number}")
