"""Workers without gRPC: a host and its gateway over real back ends, to be killed and reopened."""

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from troupe.broker import connect as brokers
from troupe.broker.addressing import SessionKey
from troupe.broker.memory import MemoryBroker
from troupe.broker.port import Broker
from troupe.chassis.clock import SystemClock
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors.actor import Actor
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.endings import cancelled_record
from troupe.dataplane.actors.host import SWEEP, Host
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.actors.world import Ending
from troupe.dataplane.admission import Limits
from troupe.dataplane.gateway import Gateway
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement
from troupe.dataplane.sessions import Sessions
from troupe.dataplane.state import connect as stores
from troupe.dataplane.state.control import Control, Settlement
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Loaded, Owner
from troupe.v1 import agent_pb2, envelope_pb2, promise_pb2
from troupe.v1.agent_pb2 import EventPosition, MessageStatus, SendRequest, Verb
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment
from troupe.v1.envelope_pb2 import Content, Envelope, Number
from troupe.v1.turn_pb2 import Event

Hook = Callable[..., Awaitable[None]]

SHARDS = 1
AGENT = "clerk"
SOON = 0.5 * SWEEP
"""Seconds: what happens within them was not found by a sweep."""


def key(session: str = "s", agent: str = AGENT) -> SessionKey:
    return SessionKey("default", "default", agent, session)


async def until(holds: Callable[[], object], timeout: float = 10.0) -> None:
    """Returns once `holds`. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while not holds():  # noqa: ASYNC110 - what is waited for is inside the code under test
            await asyncio.sleep(0.002)


class Line:
    """A store or broker as one worker reaches it: it fails as hooks say, and answers nothing more once it is cut."""

    def __init__(self, target: object) -> None:
        self._target = target
        self.cut = False
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.calls: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        """Of them, those that have had their effect."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            await self._hooked(self.before, name, args)
            answer = await found(*args, **kwargs)
            self.answered[name] += 1
            await self._hooked(self.after, name, args)
            return answer

        return call

    async def _hooked(self, hooks: Mapping[str, Hook], name: str, args: tuple[Any, ...]) -> None:
        if not self.cut and name in hooks:
            await hooks[name](*args)
        if self.cut:
            await asyncio.Event().wait()


class Backends:
    """Mailboxes and state of one fleet, that outlive its workers: behind these URLs, by default in memory."""

    def __init__(self, broker: str = "", state: str = "") -> None:
        self._broker, self._state = broker, state
        self._kept = (MemoryBroker(), MemoryStateStore())
        self.epoch = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Broker, StateStore]]:
        if not self._broker:
            yield self._kept
            return
        async with brokers.connected(self._broker) as broker, stores.connected(self._state) as store:
            yield broker, store

    @asynccontextmanager
    async def several(self, behaviour: Behaviour | None, count: int, **options: Any) -> AsyncIterator[list["Worker"]]:
        """Workers that share mailboxes and state; the first holds every shard."""
        async with self.opened() as (broker, store), AsyncExitStack() as stack:
            await store.declare(SHARDS)
            await broker.declare(SHARDS)
            workers = []
            for number in range(count):
                self.epoch += 1
                owner = Owner(0, self.epoch, f"instance-{self.epoch}")
                workers.append(Worker(broker, store, behaviour, owner, stack, options))
                await workers[-1].start(holds=not number)
            yield workers

    @asynccontextmanager
    async def worker(self, behaviour: Behaviour | None, **options: Any) -> AsyncIterator["Worker"]:
        """A worker that holds every shard. Leaving stops it in good order, unless it was killed."""
        self.epoch += 1
        async with self.opened() as (broker, store), AsyncExitStack() as stack:
            worker = Worker(broker, store, behaviour, Owner(0, self.epoch, f"instance-{self.epoch}"), stack, options)
            await store.declare(SHARDS)
            await broker.declare(SHARDS)
            await worker.start()
            yield worker


class Worker:
    """One process's worth of runtime."""

    def __init__(
        self,
        broker: Broker,
        store: StateStore,
        behaviour: Behaviour | None,
        owner: Owner,
        stack: AsyncExitStack,
        options: Mapping[str, Any],
    ) -> None:
        self.real_broker, self.real_store = broker, store
        self.broker_line, self.store_line = Line(broker), Line(store)
        self.behaviour, self.owner = behaviour, owner
        self.hub, self.clock = Hub(), SystemClock()
        self.placement = alone(owner, SHARDS)
        self.endings: list[Ending] = []
        self.dice = 0.5
        self._stack, self._options = stack, dict(options)

    async def start(self, *, holds: bool = True) -> None:
        """`holds`: the shard is its own from the beginning."""
        broker: Any = self.broker_line
        store: Any = self.store_line
        options = {"drain_timeout": 5.0, "worker_id": "worker-0", **self._options}
        limits = options.pop("limits", Limits())
        peers = Peers()
        self.host = await self._stack.enter_async_context(
            Host.hosting(
                store,
                broker,
                self.hub,
                self.clock,
                behaviour=lambda _: self.behaviour,
                ended=self.endings.append,
                dice=lambda: self.dice,
                **options,
            )
        )
        self.gateway = await self._stack.enter_async_context(
            Gateway.opened(
                broker,
                store,
                self.host,
                self.clock,
                placement=self.placement,
                peers=peers,
                generation=lambda: 1,
                limits=limits,
            )
        )
        self.sessions = Sessions(store, self.host, self.gateway, self.clock, self.placement, peers)
        if holds:
            await self.hold()

    def commits_took(self, seconds: float) -> None:
        """As if its last commits had taken so long."""
        for _ in range(100):
            self.host.world.patience.committed(seconds)

    async def hold(self, *others: str) -> None:
        """The shard is its own now. `others` are said to live too."""
        await self.host.hold([self.owner], live={self.owner.instance, *others})
        await until(lambda: self.host.owner(0))

    async def release(self, *live: str) -> None:
        """The shard is revoked; returns once it is released."""
        await self.host.hold([self.owner], revoked={0}, live={self.owner.instance, *live})
        await until(lambda: not self.host.statuses())

    async def kill(self) -> None:
        """As kill -9 does: nothing that is under way is finished, nothing more is written or acked."""
        self.broker_line.cut = self.store_line.cut = True
        host = self.host
        host.drain()
        for actor in [*host._hot, *host._leaving]:
            if actor.turn is not None:
                actor.turn.deliveries = []
                actor.turn.abandon()
        async with asyncio.timeout(10):
            await host._shards.let_go()
            await self._stack.aclose()

    async def send(
        self, text: str, session: str = "s", message_id: str = "", within: float = 10.0, **options: Any
    ) -> str:
        """Hand over; the message's id."""
        request = SendRequest(session=key(session).ref(), message_id=message_id, content=Content(text=text), **options)
        return (await self.gateway.send(key(session), request, within))[0]

    async def publish(
        self, text: str, message_id: str, session: str = "s", *, due: float = 0.0, lasts: float = 60.0, **fields: Any
    ) -> None:
        """A message as a gateway sends it, in a stream of its own; `due`: for the schedule."""
        first = due or self.clock.now()
        envelope = Envelope(
            id=message_id,
            target=key(session).ref(),
            number=Number(stream=uuid7(), sequence=1),
            kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
            content=Content(text=text),
            first_sent=timestamp(first),
            expires=timestamp(first + lasts),
            **fields,
        )
        if due:
            envelope.due.CopyFrom(timestamp(due))
        await self.real_broker.publish(envelope)

    async def ask(self, text: str, session: str = "s", message_id: str = "", **options: Any) -> MessageStatus:
        """Hand over; where the message stands at its end."""
        request = SendRequest(session=key(session).ref(), message_id=message_id, content=Content(text=text), **options)
        return await self.gateway.send_and_wait(key(session), request, 10.0)

    async def end_of(self, message_id: str, session: str = "s", wait: float = 10.0) -> MessageStatus:
        """Its status, once it is settled."""
        return await self.gateway.status(key(session), message_id, wait)

    async def at_rest(self, session: str = "s") -> None:
        """Returns once what comes next in the session is suspended, and the store knows it."""
        await until(lambda: (actor := self.host.actor(key(session))) is not None and actor.at_rest)

    async def passivated(self, session: str = "s") -> None:
        """Returns once the session, which is about to have nothing to do, has left memory."""
        await until(lambda: self.actor(session).idle)
        self.host._hot.passivate(1_000)

    def actor(self, session: str = "s") -> Actor:
        """The session's, which must be in memory."""
        actor = self.host.actor(key(session))
        assert actor is not None
        return actor

    async def state(self, session: str = "s") -> str:
        """The texts of all messages that ended DONE, in order."""
        return (await self.load(session)).state.decode()

    async def load(self, session: str = "s") -> Loaded:
        return await self.real_store.load(key(session))

    async def control(
        self, verb: str, message_id: str, session: str = "s", *, tell: bool = True, verb_id: str = "", **options: Any
    ) -> str:
        """Record a verb as a gateway does; the answer's name. `tell`: and let the worker know."""
        status = cancelled_record(key(session), message_id, b"", 0, self.clock.now()).status
        known = Verb.Value(f"VERB_{verb}")
        control = Control(known, verb_id or uuid7(), message_id, status=status, **options)
        answer = await self.real_store.control(key(session), control)
        if tell:
            self.host.nudge(0, key(session))
        return agent_pb2.VerbAnswer.Name(answer).removeprefix("VERB_ANSWER_")

    async def settle(
        self, promise_id: str, value: str = "yes", session: str = "s", *, tell: bool = True, settlement_id: str = ""
    ) -> str:
        """Resolve a promise as a gateway does; the answer's name. `tell`: and let the worker know."""
        settlement = Settlement(
            promise_id, settlement_id or uuid7(), promise_pb2.PROMISE_STATE_RESOLVED, value.encode(), "tester"
        )
        answer = await self.real_store.settle_promise(key(session), settlement)
        if tell:
            self.host.nudge(0, key(session))
        return promise_pb2.SettlementAnswer.Name(answer).removeprefix("SETTLEMENT_ANSWER_")

    async def cancel(self, message_id: str, session: str = "s", verb_id: str = "verb") -> str:
        """The answer's name."""
        answer = await self.gateway.cancel(key(session), message_id, verb_id)
        return agent_pb2.VerbAnswer.Name(answer).removeprefix("VERB_ANSWER_")

    @asynccontextmanager
    async def conversation(
        self, text: str, session: str = "s", message_id: str = "", after: EventPosition | None = None
    ) -> AsyncIterator["Listener"]:
        """Send, and listen beside. Leaving detaches."""
        request = SendRequest(session=key(session).ref(), message_id=message_id, content=Content(text=text))
        listener = Listener()
        task = asyncio.create_task(listener.listen(self.gateway.converse(key(session), request, after)))
        try:
            yield listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Listener:
    """Keeps the events of one stream."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.times: list[float] = []
        self.ended = asyncio.Event()

    async def listen(self, events: AsyncIterator[Any]) -> None:
        try:
            async for event in events:
                self.events.append(event)
                self.times.append(asyncio.get_running_loop().time())
        finally:
            self.ended.set()

    @property
    def kinds(self) -> list[str]:
        return [str(event.WhichOneof("kind")) for event in self.events]

    async def end(self, timeout: float = 10.0) -> Event:
        """The last event, once the stream has ended."""
        async with asyncio.timeout(timeout):
            await self.ended.wait()
        return self.events[-1]


def alone(owner: Owner, shards: int) -> Placement:
    """The placement of a worker that owns every shard."""
    placement = Placement(owner.instance)
    assignments = [
        ShardAssignment(shard=shard, epoch=owner.epoch, worker_id="worker-0", instance_id=owner.instance)
        for shard in range(shards)
    ]
    placement.take(PlaceRequest(term=1, version=1, shard_count=shards, shards=assignments))
    placement.open()
    return placement
