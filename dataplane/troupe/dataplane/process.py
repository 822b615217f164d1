"""A worker from its settings."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import grpc
import structlog

from troupe.broker import connect as brokers
from troupe.broker.addressing import SessionKey
from troupe.broker.port import Broker
from troupe.chassis import rpc
from troupe.chassis.access.guard import guarding
from troupe.chassis.background import background
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.lifecycle import Stop
from troupe.chassis.rpc_client import Credentials
from troupe.dataplane.access import METHODS
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.admission import Limits
from troupe.dataplane.behaviours.whole import Whole
from troupe.dataplane.blobs import connect as blobs
from troupe.dataplane.blobs.payloads import Payloads
from troupe.dataplane.capacity import capacity
from troupe.dataplane.clients import Registration
from troupe.dataplane.config import Applier, RevisionFiles
from troupe.dataplane.dead_letters.letters import DeadLetters
from troupe.dataplane.departure import Departure
from troupe.dataplane.following import Following
from troupe.dataplane.gateway import Gateway
from troupe.dataplane.llm.client import LlmConnections
from troupe.dataplane.load import Reporter, TurnMeter
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement
from troupe.dataplane.revision import Endpoint, prepare
from troupe.dataplane.service_agent import SERVICE as AGENT_SERVICE
from troupe.dataplane.service_agent import Agents
from troupe.dataplane.service_data_plane import SERVICE as DATA_PLANE_SERVICE
from troupe.dataplane.service_data_plane import DataPlane
from troupe.dataplane.service_dead_letter import SERVICE as DEAD_LETTER_SERVICE
from troupe.dataplane.service_dead_letter import DeadLetterDesk
from troupe.dataplane.sessions import Sessions
from troupe.dataplane.settings import DataPlaneSettings
from troupe.dataplane.state import connect as stores
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.watchdog import LoopWatch
from troupe.v1.agent_pb2_grpc import add_AgentServiceServicer_to_server
from troupe.v1.control_plane_pb2 import RegisterRequest
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.data_plane_pb2_grpc import add_DataPlaneServiceServicer_to_server
from troupe.v1.dead_letter_pb2_grpc import add_DeadLetterServiceServicer_to_server
from troupe.v1.status_pb2 import ShardStatus

ENOUGH_TURNS = 5
"""Turns on a new revision from which on their failures speak against it."""
LOOK_BACK = 3.0
"""Seconds after which a blocked loop is forgiven."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that serves."""

    address: str
    """`host:port` really bound."""
    departure: Departure


async def serve(settings: DataPlaneSettings, stop: Stop) -> None:
    """Run a worker until `stop` is set or the control plane drains it; both ways it leaves its shards with others
    first. Raises what `running` does, and FailedPrecondition, REPLACED, where another process registered as this
    worker; by then it has let go of everything."""
    async with running(settings) as worker, background() as group:
        group.create_task(_obey(stop, worker.departure))
        await worker.departure.asked()
        await worker.departure.made()
    log.info("stopped", worker=settings.worker_id, why=worker.departure.why)
    if worker.departure.replaced is not None:
        raise worker.departure.replaced


async def _obey(stop: Stop, departure: Departure) -> None:
    await stop
    departure.ask("it was told to stop")


@contextlib.asynccontextmanager
async def running(settings: DataPlaneSettings, clock: Clock | None = None) -> AsyncIterator[Worker]:
    """Serve until the block is left. Entering returns when calls are answered; the shards come with the control
    plane's placement. Leaving takes nothing new, lets running turns end within `drain_timeout`, and stops, without a
    word to the control plane, for which see `Worker.departure`; a failure in the background cancels the block.

    Raises, each with one line of what to do: FailedPrecondition and DataLoss for the data directory, InvalidArgument
    for URLs, FailedPrecondition for a port in use."""
    clock = clock or SystemClock()
    for directory in reversed(settings.python_path):
        if str(directory.absolute()) not in sys.path:
            sys.path.insert(0, str(directory.absolute()))
    broker_url = settings.broker or f"sqlite:///{(settings.data / 'broker.db').absolute()}"
    state_url = settings.state or f"sqlite:///{(settings.data / 'state.db').absolute()}"
    instance_id, hub, meter = uuid7(), Hub(), TurnMeter(clock)
    guard = guarding(settings, METHODS)
    placement, watch = Placement(instance_id), LoopWatch(clock)
    peers = Peers(Credentials.among_peers(settings))
    async with (
        stores.connected(state_url, allow_volatile=settings.allow_volatile_state) as store,
        brokers.connected(broker_url) as broker,
        LlmConnections() as connections,
        asyncio.TaskGroup() as tasks,
    ):
        endpoint = Endpoint(settings.llm, settings.model, settings.llm_key)
        worker = _Worker(broker, store, placement, meter, watch)
        payloads = Payloads(blobs.connected(settings.blobs or f"file:///{(settings.data / 'blobs').absolute()}"))
        applier = Applier(
            RevisionFiles(settings.data / settings.worker_id),
            prepare=lambda config: prepare(config, connections, endpoint, clock),
            changed=worker.settle,
            healthy=worker.trouble,
            clock=clock,
            tasks=tasks,
            checks=settings.health_checks,
            window=settings.health_window,
        )

        def labels(namespace: str, name: str) -> Mapping[str, str]:
            return applier.running.labels.get((namespace, name), {}) if applier.running else {}

        def behaviour(key: SessionKey) -> Behaviour | None:
            found = applier.running.behaviour(key) if applier.running else None
            return None if found is None else Whole(found, payloads)

        async with (
            Host.hosting(
                store,
                broker,
                hub,
                clock,
                worker_id=settings.worker_id,
                behaviour=behaviour,
                ended=meter.ended,
                order_timeout=settings.order_timeout,
                idle_after=settings.idle_after,
                max_hot_sessions=settings.max_hot_sessions,
                drain_timeout=settings.drain_timeout,
                handover_timeout=settings.handover_timeout,
                unacked_budget=settings.unacked_budget,
            ) as host,
            Gateway.opened(
                broker,
                store,
                host,
                clock,
                placement=placement,
                peers=peers,
                generation=lambda: applier.running.config.generation if applier.running else 0,
                limits=Limits(
                    settings.max_mailbox,
                    settings.max_mailbox_bytes,
                    settings.max_session_inbox,
                    settings.max_session_inbox_bytes,
                ),
            ) as gateway,
        ):
            worker.join(host, applier, gateway.following)
            stopping = False
            sessions = Sessions(store, host, gateway, clock, placement, peers)
            agents = Agents(gateway, sessions, payloads, stopping=lambda: stopping, labels=labels)
            reporter = Reporter(settings.worker_id, instance_id, host, applier, meter, watch, clock)
            data_plane = DataPlane(applier, reporter, worker.place)
            letters = DeadLetterDesk(DeadLetters(broker, store, clock, ready=placement.ready, whole=payloads.inline))

            def register(server: grpc.aio.Server) -> list[str]:
                add_AgentServiceServicer_to_server(agents, server)
                add_DataPlaneServiceServicer_to_server(data_plane, server)
                add_DeadLetterServiceServicer_to_server(letters, server)
                return [AGENT_SERVICE, DATA_PLANE_SERVICE, DEAD_LETTER_SERVICE]

            await applier.boot()
            async with rpc.serving(settings, register, guard) as serving:
                departure = Departure(host, placement, reporter, serving, settings.drain_patience)
                worker.depart = departure.ask
                joining = RegisterRequest(
                    worker_id=settings.worker_id,
                    instance_id=instance_id,
                    address=settings.advertise or serving.address,
                    capacity=capacity(settings.max_hot_sessions),
                    labels=settings.labels,
                )
                registration = Registration(
                    settings.server,
                    joining,
                    clock,
                    Credentials.among_peers(settings),
                    term=lambda: placement.position[0],
                )
                chores = [
                    tasks.create_task(_registered(registration, departure)),
                    tasks.create_task(watch.run()),
                ]
                in_order = False
                try:
                    yield Worker(serving.address, departure)
                    in_order = True
                finally:
                    stopping = True
                    for chore in chores:
                        chore.cancel()
                    await applier.close(in_order=in_order)


async def _registered(registration: Registration, departure: Departure) -> None:
    departure.replace(await registration.run())


class _Worker:
    """Brings together what the control plane said: a revision, and shards to run it for."""

    def __init__(
        self, broker: Broker, store: StateStore, placement: Placement, meter: TurnMeter, watch: LoopWatch
    ) -> None:
        self._broker, self._store, self._placement = broker, store, placement
        self._meter, self._watch = meter, watch
        self._settling = asyncio.Lock()
        self.depart: Callable[[str], None] = lambda _: None
        """What is called where the control plane drains this process."""

    def join(self, host: Host, applier: Applier, following: Following) -> None:
        """Before anything else is called."""
        self._host, self._applier, self._following = host, applier, following

    async def place(self, request: PlaceRequest) -> list[ShardStatus]:
        """Take the placement. Raises FailedPrecondition for an older one."""
        changed = self._placement.take(request)
        if self._placement.draining:
            self.depart("the control plane drains it")
        try:
            await self.settle()
        finally:
            self._following.placed(changed)
        return self._host.statuses()

    async def settle(self) -> None:
        """Hold the shards placed here, but none while there is no revision to run for them."""
        async with self._settling:
            placement = self._placement
            if placement.known:
                if not placement.opened:
                    await self._store.declare(placement.shard_count)
                    await self._broker.declare(placement.shard_count)
                    placement.open()
                mine = placement.mine
                unwanted = placement.revoked if self._applier.running else {owner.shard for owner in mine}
                await self._host.hold(mine, unwanted, placement.live, placement.position)
            self._host.revision_changed()

    def trouble(self) -> TroupeError | None:
        """What speaks against the revision on trial. All that it adds or changes was activated before it ran."""
        if blocked := self._watch.blocked(within=LOOK_BACK):
            return Unavailable("LOOP_BLOCKED", f"the worker's event loop was blocked for {blocked:.1f} s")
        generation = self._applier.running.config.generation if self._applier.running else 0
        begun, hopeless = self._meter.of(generation)
        if begun >= ENOUGH_TURNS and hopeless * 2 >= begun:
            return FailedPrecondition("TURNS_FAIL", f"{hopeless} of the {begun} turns that ran on it cannot succeed")
        return None
