"""One simulated worker process: a real Host, Gateway and Sessions, behind links of its own."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fault.simulation.history import History
from fault.simulation.loop import Process
from fault.simulation.network import Link, Weather
from fault.simulation.remote import RemoteBroker, RemoteStore
from fault.simulation.script import Scripted, Scripts
from fault.simulation.server import Server
from fault.simulation.store import WatchedStore

from troupe.broker.addressing import SessionKey, mailbox
from troupe.broker.port import Delivery
from troupe.chassis.errors import Unavailable
from troupe.dataplane.actors.endings import cancelled_record
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.admission import Limits
from troupe.dataplane.control import Order
from troupe.dataplane.gateway import Gateway
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement
from troupe.dataplane.sessions import Sessions
from troupe.dataplane.state.control import Control, Settlement
from troupe.dataplane.state.session import Owner
from troupe.v1 import agent_pb2
from troupe.v1.agent_pb2 import MessageRef, VerbAnswer
from troupe.v1.data_plane_pb2 import PlaceRequest
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.promise_pb2 import SettlementAnswer

T = TypeVar("T")
EPOCH = 1_700_000_000.0
SHARDS = 2
LATE_AGENT = "late"
"""An agent that only the second revision knows."""
BATCHES = "batches"
"""An actor that takes several messages in one turn."""


class LoopClock:
    """The virtual loop's time; what it tells others is wrong by `skew` seconds."""

    skew = 0.0

    def now(self) -> float:
        return EPOCH + self.monotonic() + self.skew

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class Worker:
    """See the module's text. Dead once killed or stopped; another instance takes its place."""

    def __init__(
        self,
        instance: str,
        store: WatchedStore,
        server: Server,
        scripts: Scripts,
        history: History,
        dice: random.Random,
        weather: Weather,
        prefetch: int,
        killed: Callable[["Worker"], None],
        nudge: Callable[[SessionKey], None],
    ) -> None:
        """`killed` hears when one of its turns kills it; `nudge` tells other workers, or does not."""
        self._killed, self._nudge = killed, nudge
        self.instance, self.dead, self.second_revision = instance, False, False
        self.over = 0.0
        """When its process ended; 0 until then."""
        self._watched, self._scripts, self._history, self._dice = store, scripts, history, dice
        self.process = Process(instance)
        self.to_store = Link(f"{instance} store", dice, weather, history.log)
        self.to_broker = Link(f"{instance} broker", dice, weather, history.log)
        self._store = RemoteStore(self.to_store, store)
        self._broker = RemoteBroker(self.to_broker, server, self._arrive, prefetch)
        self.hub, self.clock = Hub(), LoopClock()
        self._placement: tuple[Sequence[Owner], frozenset[int], frozenset[str] | None] = ((), frozenset(), None)
        self._placing = asyncio.Lock()
        self.up, self._stop = asyncio.Event(), asyncio.Event()
        self._held: list[tuple[Callable[[Delivery], None], Delivery]] = []
        self._calls: set[asyncio.Task[Any]] = set()
        self._main = self._spawn(self._serve())

    async def call(self, work: Callable[[], Awaitable[T]], timeout: float) -> T:
        """A client's call: ends with Unavailable where the worker dies, TimeoutError where it takes too long."""
        if self.dead:
            raise Unavailable("NO_WORKER", f"{self.instance} is gone")

        async def serve() -> T:
            return await work()

        call = self._spawn(serve())
        self._calls.add(call)
        call.add_done_callback(self._ended)
        await asyncio.wait([call], timeout=timeout)
        if not call.done():
            call.cancel()
            raise TimeoutError
        if self.to_store.dead or call.cancelled():
            raise Unavailable("NO_WORKER", f"{self.instance} is gone")
        return call.result()

    async def control(self, key: SessionKey, control: Control) -> VerbAnswer.ValueType:
        """A client's verb."""
        status = cancelled_record(key, control.message_id, b"", 0, self.clock.now()).status
        answer = await self._store.control(key, replace(control, status=status))
        self._nudge(key)
        return answer

    async def restart(self, key: SessionKey, message_id: str, verb_id: str, step: int) -> None:
        """A client's RESTART."""
        order = Order(agent_pb2.VERB_RESTART, verb_id, from_step=step)
        async for _ in self.gateway.control.named(order, [(key, MessageRef(message_id=message_id))]):
            self._nudge(key)

    async def settle(self, key: SessionKey, settlement: Settlement) -> SettlementAnswer.ValueType:
        """A client's settlement of a promise."""
        answer = await self._store.settle_promise(key, settlement)
        self._nudge(key)
        return answer

    def nudged(self, key: SessionKey) -> None:
        """Another worker says that something was recorded for the session."""
        if not self.dead and self.up.is_set():
            self.process.context.copy().run(self.host.nudge, key.shard(SHARDS), key)

    def place(self, mine: Sequence[Owner], revoked: frozenset[int], live: frozenset[str] | None) -> None:
        """The control plane says which shards are its own, which of them it wants back, and who lives."""
        self._placement = (mine, revoked, live)
        if not self.dead:
            self._spawn(self._hold())

    def holds(self, shard: int) -> bool:
        """Whether it says so itself."""
        return any(status.shard == shard for status in self.host.statuses())

    def learn(self) -> None:
        """The second revision comes."""
        self.second_revision = True
        if self.up.is_set():
            self.process.context.copy().run(self.host.revision_changed)

    async def kill(self, noticed: float = 0.0) -> None:
        """At once: nothing more goes out; the server finds its channels broken, after so many seconds."""
        self.dead = self.to_store.dead = self.to_broker.dead = True
        self.over = asyncio.get_running_loop().time()
        self._history.log(f"{self.instance} KILLED")
        self._history.counts["kills"] += 1
        self._cancel_calls()
        self.process.cancel()
        for channel in self._broker.channels:
            channel.abandon()
        await asyncio.sleep(noticed)
        for channel in self._broker.channels:
            await channel.close()

    async def stop(self) -> None:
        """Gracefully."""
        self.dead = True
        self._history.log(f"{self.instance} stops")
        self._cancel_calls()
        await asyncio.sleep(0)
        self._stop.set()
        await asyncio.wait([self._main])
        self.over = asyncio.get_running_loop().time()
        if self._main.cancelled() or self._main.exception():
            self._history.violation("did not stop", f"{self.instance}: {self._main}")

    async def break_channel(self, shard: int) -> None:
        """The broker takes the shard's consumer to be gone; the worker does not know."""
        self._history.log(f"{self.instance} loses its channel of shard {shard}")
        for channel in self._broker.channels:
            if channel.queue == mailbox(shard):
                await channel.close()

    async def reconnect(self, after: float) -> None:
        """Its connection to the broker breaks, and is there again without a word."""
        self._history.log(f"{self.instance} reconnects")
        for channel in list(self._broker.channels):
            await channel.reopen(after)

    def heal(self) -> None:
        self.to_store.heal()
        self.to_broker.heal()

    def _cancel_calls(self) -> None:
        """Before the gateway goes: servers end their calls first."""
        for call in sorted(self._calls, key=hash):
            call.cancel()

    def _ended(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()

    def _spawn(self, work: Awaitable[T]) -> asyncio.Task[T]:
        async def run() -> T:
            return await work

        return asyncio.get_running_loop().create_task(run(), context=self.process.context.copy())

    def _arrive(self, handler: Callable[[Delivery], None], delivery: Delivery) -> None:
        """What is on its way when the link is cut comes when it is there again."""
        if self._held or self.to_broker.away():
            self._held.append((handler, delivery))
            if len(self._held) == 1:
                self._let_through()
        else:
            self._hand_over(handler, delivery)

    def _let_through(self) -> None:
        if away := self.to_broker.away():
            asyncio.get_running_loop().call_later(away + 0.001, self._let_through)
            return
        held, self._held = self._held, []
        for handler, delivery in held:
            self._hand_over(handler, delivery)

    def _hand_over(self, handler: Callable[[Delivery], None], delivery: Delivery) -> None:
        if not self.to_broker.dead:
            if self._history.traced:
                number = Envelope.FromString(delivery.body).number
                self._history.log(f"{self.instance} gets {number.stream}:{number.sequence}, {delivery.redeliveries}")
            self.process.context.copy().run(handler, delivery)

    async def _serve(self) -> None:
        clock = self.clock
        behaviour, batches = (
            Scripted(
                self._scripts, self._history, self._watched, self._owner, self._die, clock.now, self.instance, max_batch
            )
            for max_batch in (1, 4)
        )
        placement, peers = Placement(self.instance), Peers()
        # Nobody is named as an owner: what a worker does not hold itself it looks for in the store.
        placement.take(PlaceRequest(term=1, version=1, shard_count=SHARDS))
        placement.open()
        async with (
            Host.hosting(
                self._store,
                self._broker,
                self.hub,
                clock,
                worker_id=self.instance,
                behaviour=lambda key: (
                    None
                    if key.agent == LATE_AGENT and not self.second_revision
                    else batches
                    if key.agent == BATCHES
                    else behaviour
                ),
                idle_after=20.0,
                max_hot_sessions=3,
                drain_timeout=self._dice.choice((20.0, 20.0, 0.0, 3.0)),
                handover_timeout=self._dice.choice((None, None, 5.0, 30.0)),
                dice=self._dice.random,
            ) as self.host,
            Gateway.opened(
                self._broker,
                self._store,
                self.host,
                clock,
                placement=placement,
                peers=peers,
                generation=lambda: 1,
                limits=Limits(session_messages=1000),
            ) as self.gateway,
        ):
            self.sessions = Sessions(self._store, self.host, self.gateway, clock, placement, peers)
            self.up.set()
            await self._stop.wait()

    async def _hold(self) -> None:
        await self.up.wait()
        async with self._placing:
            if self.dead:
                return
            await self.host.hold(*self._placement)
            self.host.revision_changed()

    def _owner(self, key: SessionKey) -> Owner | None:
        actor = self.host.actor(key)
        return actor.owner if actor is not None and self._watched.is_owner(actor.owner) else None

    async def _die(self) -> None:
        self._killed(self)
        await asyncio.Event().wait()
