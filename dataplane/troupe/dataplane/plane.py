"""The data plane of one process: stores, revision, sessions and services, whoever tells it what to run and which shards
to hold, and whether or not it serves a port."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping

import grpc

from troupe.broker import connect as brokers
from troupe.broker.addressing import SessionKey
from troupe.broker.port import Broker
from troupe.chassis.clock import Clock
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.chassis.rpc_client import Credentials
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.admission import Limits
from troupe.dataplane.behaviours.whole import Whole
from troupe.dataplane.blobs import connect as blobs
from troupe.dataplane.blobs.payloads import Payloads
from troupe.dataplane.capacity import capacity, resident
from troupe.dataplane.config import Applier, RevisionFiles
from troupe.dataplane.dead_letters.letters import DeadLetters
from troupe.dataplane.gateway import Gateway
from troupe.dataplane.llm.client import LlmConnections
from troupe.dataplane.load import TurnMeter
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement
from troupe.dataplane.promises import Promises
from troupe.dataplane.revision import Endpoint, prepare
from troupe.dataplane.service_agent import SERVICE as AGENT_SERVICE
from troupe.dataplane.service_agent import Agents
from troupe.dataplane.service_dead_letter import SERVICE as DEAD_LETTER_SERVICE
from troupe.dataplane.service_dead_letter import DeadLetterDesk
from troupe.dataplane.service_promise import SERVICE as PROMISE_SERVICE
from troupe.dataplane.service_promise import PromiseDesk
from troupe.dataplane.sessions import Sessions
from troupe.dataplane.settings import DataPlaneSettings
from troupe.dataplane.state import connect as stores
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.vitals import Vitals
from troupe.dataplane.watchdog import LoopWatch
from troupe.v1.agent_pb2_grpc import add_AgentServiceServicer_to_server
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.dead_letter_pb2_grpc import add_DeadLetterServiceServicer_to_server
from troupe.v1.promise_pb2_grpc import add_PromiseServiceServicer_to_server
from troupe.v1.status_pb2 import ShardStatus

ENOUGH_TURNS = 5
"""Turns on a new revision from which on their failures speak against it."""


class Plane:
    """Make one with `assembled`. It brings together what it is told: a revision, and shards to run it for."""

    def __init__(
        self,
        settings: DataPlaneSettings,
        clock: Clock,
        store: StateStore,
        broker: Broker,
        connections: LlmConnections,
        placement: Placement,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.placement, self.meter, self.watch = placement, TurnMeter(clock), LoopWatch(clock)
        self.departs: Callable[[str], None] = lambda _: None
        """What is called where a placement says that this process is to go."""
        self.stopping = False
        """Streams that break now break because the process stops."""
        self.room = capacity(settings.max_hot_sessions)
        self._broker, self._store = broker, store
        self._settling = asyncio.Lock()
        endpoint = Endpoint(settings.llm, settings.model, settings.llm_key)
        self.applier = Applier(
            RevisionFiles(settings.data / settings.worker_id),
            prepare=lambda config: prepare(config, connections, endpoint, clock),
            changed=self._settle,
            healthy=self._trouble,
            clock=clock,
            tasks=tasks,
            checks=settings.health_checks,
            window=settings.health_window,
        )
        self.payloads = Payloads(blobs.connected(settings.blobs or _file_url(settings, "blobs", "file")))

    def join(self, host: Host, gateway: Gateway, clock: Clock, peers: Peers) -> None:
        """Before anything else is called."""
        self.host, self._following = host, gateway.following
        self.vitals, self.watch.whose = Vitals(host, self.watch, clock), host.whose
        store, broker, placement, payloads = self._store, self._broker, self.placement, self.payloads
        sessions = Sessions(store, host, gateway, clock, placement, peers)
        self.agents = Agents(gateway, sessions, payloads, stopping=lambda: self.stopping, labels=self._labels)
        self.promises = PromiseDesk(Promises(store, placement, gateway.nudges), payloads, self._labels)
        self.letters = DeadLetterDesk(DeadLetters(broker, store, clock, ready=placement.ready, whole=payloads.inline))

    def register(self, server: grpc.aio.Server) -> list[str]:
        """Let the server answer for it; the names of the services."""
        add_AgentServiceServicer_to_server(self.agents, server)
        add_DeadLetterServiceServicer_to_server(self.letters, server)
        add_PromiseServiceServicer_to_server(self.promises, server)
        return [AGENT_SERVICE, DEAD_LETTER_SERVICE, PROMISE_SERVICE]

    async def place(self, request: PlaceRequest) -> list[ShardStatus]:
        """Take the placement. Raises FailedPrecondition for an older one."""
        changed = self.placement.take(request)
        if self.placement.draining:
            self.departs("the control plane drains it")
        try:
            await self._settle()
        finally:
            self._following.placed(changed)
        return self.host.statuses()

    def generation(self) -> int:
        """Of the running revision; 0 without one."""
        return self.applier.running.config.generation if self.applier.running else 0

    def behaviour(self, key: SessionKey) -> Behaviour | None:
        """What the session runs, under the running revision."""
        found = self.applier.running.behaviour(key) if self.applier.running else None
        return None if found is None else Whole(found, self.payloads)

    def _labels(self, namespace: str, name: str) -> Mapping[str, str]:
        return self.applier.running.labels.get((namespace, name), {}) if self.applier.running else {}

    async def _settle(self) -> None:
        """Hold the shards placed here, but none while there is no revision to run for them."""
        async with self._settling:
            placement = self.placement
            if placement.known:
                if not placement.opened:
                    await self._store.declare(placement.shard_count)
                    await self._broker.declare(placement.shard_count)
                    placement.open()
                mine = placement.mine
                unwanted = placement.revoked if self.applier.running else {owner.shard for owner in mine}
                await self.host.hold(mine, unwanted, placement.live, placement.position)
            self.host.revision_changed()

    def _trouble(self, since: float) -> TroupeError | None:
        """What speaks against the revision that is on trial since then. All that it adds or changes was activated
        before it ran."""
        if blocked := self.watch.blocked(since):
            return Unavailable("LOOP_BLOCKED", f"the worker's event loop was blocked for {blocked:.1f} s")
        generation = self.generation()
        begun, hopeless = self.meter.of(generation)
        if begun >= ENOUGH_TURNS and hopeless * 2 >= begun:
            return FailedPrecondition("TURNS_FAIL", f"{hopeless} of the {begun} turns that ran on it cannot succeed")
        return None


@contextlib.asynccontextmanager
async def assembled(settings: DataPlaneSettings, clock: Clock, instance_id: str) -> AsyncIterator[Plane]:
    """The plane, which runs the last good revision of its data directory, if there is one, and holds no shards yet.
    Leaving lets running turns end within `drain_timeout`, and stops; close the applier before. A failure in the
    background cancels the block.

    Raises, each with one line of what to do: FailedPrecondition and DataLoss for the data directory, InvalidArgument
    for URLs."""
    for directory in reversed(settings.python_path):
        if str(directory.absolute()) not in sys.path:
            sys.path.insert(0, str(directory.absolute()))
    placement, peers = Placement(instance_id), Peers(Credentials.among_peers(settings))
    state_url = settings.state or _file_url(settings, "state.db", "sqlite")
    async with (
        stores.connected(state_url, allow_volatile=settings.allow_volatile_state) as store,
        brokers.connected(settings.broker or _file_url(settings, "broker.db", "sqlite")) as broker,
        LlmConnections() as connections,
        asyncio.TaskGroup() as tasks,
    ):
        plane = Plane(settings, clock, store, broker, connections, placement, tasks)
        async with (
            Host.hosting(
                store,
                broker,
                Hub(),
                clock,
                worker_id=settings.worker_id,
                behaviour=plane.behaviour,
                ended=plane.meter.ended,
                order_timeout=settings.order_timeout,
                idle_after=settings.idle_after,
                max_hot_sessions=settings.max_hot_sessions,
                memory_is_short=lambda: resident() > plane.room.memory_bytes * settings.memory_share,
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
                generation=plane.generation,
                limits=Limits(
                    settings.max_mailbox,
                    settings.max_mailbox_bytes,
                    settings.max_session_inbox,
                    settings.max_session_inbox_bytes,
                ),
                trouble=lambda: plane.vitals.trouble,
            ) as gateway,
        ):
            plane.join(host, gateway, clock, peers)
            await plane.applier.boot()
            watching = tasks.create_task(plane.watch.run())
            try:
                yield plane
            finally:
                watching.cancel()


def _file_url(settings: DataPlaneSettings, name: str, scheme: str) -> str:
    return f"{scheme}:///{(settings.data / name).absolute()}"
