"""Mailboxes on RabbitMQ: the port over a connection that publishes and one that consumes.

They are two because a server that is short of memory stops reading from whoever publishes: acks and questions must
not wait behind that. Everything but messages therefore goes over the one that consumes."""

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog

from troupe.broker import metrics
from troupe.broker.addressing import SessionKey, mailbox, task_queue
from troupe.broker.envelope import retried
from troupe.broker.port import (
    AGENTS,
    PREFETCH,
    DeadLetter,
    Delivery,
    Depth,
    HeldLetter,
    Subscription,
    check_deferral,
    check_pools,
    pool_unknown,
    queue_unknown,
    shards_changed,
)
from troupe.broker.rabbitmq import letters, relay, topology, url, wire
from troupe.broker.rabbitmq.lane import PATIENCE, Lane
from troupe.broker.rabbitmq.link import Channel, Link
from troupe.broker.rabbitmq.parcel import Parcel, Route
from troupe.broker.rabbitmq.publisher import MAX_BODY, WINDOW, Publisher
from troupe.broker.rabbitmq.reading import reading
from troupe.broker.rabbitmq.relay import Relay
from troupe.broker.rabbitmq.rescue import Rescue
from troupe.broker.rabbitmq.subscription import Subscribed
from troupe.broker.spans import sending
from troupe.chassis import tracing
from troupe.chassis.background import background
from troupe.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, TroupeError, Unavailable
from troupe.v1.envelope_pb2 import Envelope, SessionRef

DRAIN = 2.0
"""Seconds that closing waits for confirms."""
PROBE = 10.0
"""Seconds between looks at whether the server still knows this process as a consumer."""
NOTICE = 0.5
"""Seconds between finding that a queue was deleted and declaring it again. A server (3.10) that finds a new queue of
that name before it has told the consumers of the old one moves them over by itself, and then drops what comes from
there: it takes the numbers of the new queue's messages for those of the old one's."""
_DECLARING = 4
"""Channels that declare at once: a quorum queue takes the server a few milliseconds."""
_SHARDS_CACHED = 16_384
CARRIED_AT_ONCE = 16
"""Messages of each of the broker's own queues that this process sends on at once."""

log = structlog.get_logger()


class RabbitmqBroker:
    """See `troupe.broker.port.Broker`."""

    def __init__(self, publishing: Lane, consuming: Lane, tasks: asyncio.TaskGroup) -> None:
        self._consuming, self._tasks = consuming, tasks
        self._publisher = Publisher(publishing, self._redeclare, self._mend)
        self._shards = 0
        self._pools: set[str] = set()
        self._routes: dict[tuple[str, str], Route] = {}
        self._subscriptions: dict[str, list[Subscribed]] = {}
        self._ready: dict[str, int] = {}  # messages that waited in each queue when it was last looked at
        self._asking: Channel | None = None
        self._looking = asyncio.Lock()
        self._declaring = asyncio.Lock()
        self._carrying: dict[str, Subscribed] = {}  # to the broker's own queues
        self._shard_of = functools.lru_cache(_SHARDS_CACHED)(_shard_of)

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(address: str, patience: float = PATIENCE) -> AsyncIterator["RabbitmqBroker"]:
        """The broker that the URL names. Raises InvalidArgument for the URL, FailedPrecondition when RabbitMQ
        refuses, and Unavailable when it cannot be reached within `patience` seconds.

        On exit what was acked is told to the server, and publishes on their way have DRAIN seconds; afterwards they
        raise Unavailable."""
        publishing = Lane(url.parameters(address, "troupe publish"))
        consuming = Lane(url.parameters(address, "troupe consume"))
        async with publishing.open(patience), consuming.open(patience), background() as tasks:
            broker = RabbitmqBroker(publishing, consuming, tasks)
            for work in (publishing.run(), consuming.run(broker._prepare), broker._publisher.run(), broker._probe()):
                tasks.create_task(work)
            try:
                yield broker
            finally:
                await broker._close()

    @property
    def blocked(self) -> bool:
        """Whether the server takes no messages now, because it is short of memory or disk."""
        return self._publisher.blocked

    async def declare(self, shards: int, pools: Sequence[str] = ()) -> None:
        check_pools(pools)
        async with self._declaring:
            wanted = self._pools | set(pools)
            while True:
                link = await self._consuming.link()
                try:
                    await _declared(link, shards, sorted(wanted))
                except Unavailable as error:
                    log.warning("declaring is interrupted", error=str(error))
                    await asyncio.sleep(0.1)
                else:
                    break
            self._shards, self._pools = shards, wanted
            rescue = Rescue(self._send_to, self._mend_queue, self._tasks)
            for queue, handle in (
                (topology.STRAYS, rescue.handle),
                (topology.RELAY, Relay(self._send_to, self._tasks).handle),
            ):
                if queue.name not in self._carrying:
                    carrying = Subscribed(self._consuming, queue, handle, CARRIED_AT_ONCE)
                    await carrying.begin(self._tasks)
                    self._carrying[queue.name] = carrying

    async def publish(self, envelope: Envelope, pool: str = "") -> None:
        route = self._route(envelope, pool)
        with sending(envelope, route.key) as sent:
            body = _body(sent)
            with metrics.Publishing():
                await self._send(route, body)

    async def publish_many(self, envelopes: Sequence[Envelope], pool: str = "") -> Sequence[TroupeError | None]:
        results: list[TroupeError | None] = []
        for start in range(0, len(envelopes), 4 * WINDOW):
            results += await self._publish_some(envelopes[start : start + 4 * WINDOW], pool)
        return results

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        declaration = self._known(queue)
        consumers = self._subscriptions.setdefault(queue, [])
        if consumers and declaration.single:
            raise FailedPrecondition("MAILBOX_CONSUMED", f"{queue} has a consumer already")
        subscription = Subscribed(
            self._consuming,
            declaration,
            lambda delivery, *_: handler(delivery),
            prefetch,
            self._forget,
            plain=handler,
        )
        consumers.append(subscription)
        if len(consumers) == 1:
            metrics.show_queue(queue, lambda: self._known_depth(queue), lambda: self._oldest(queue), time.time)
        await subscription.begin(self._tasks)
        return subscription

    async def defer(self, delivery: Delivery, delay: float) -> None:
        check_deferral(delivery, delay)
        attempt, body = retried(delivery.body)
        await relay.defer(self._send_to, delivery.queue, body, delay)
        metrics.deferred(attempt)
        delivery.ack()

    async def dead_letter(self, letter: DeadLetter) -> None:
        await self._send_to(topology.DEAD, letter.pool, letter.body, letters.headers(letter), letter.id)
        metrics.dead_lettered(letter.reason)

    def dead_letters(self, pool: str = AGENTS) -> AbstractAsyncContextManager[AsyncIterator[HeldLetter]]:
        if pool != AGENTS and pool not in self._pools:
            raise pool_unknown(pool)
        return reading(self._consuming, pool)

    async def depth(self, queue: str) -> Depth:
        self._known(queue)
        try:
            waiting, _ = await self._look(queue)
        except NotFound:
            return Depth(0, None)
        return Depth(waiting + self._unacked(queue), self._oldest(queue))

    # Publishing

    async def _send(self, route: Route, body: bytes, properties: bytes | None = None) -> None:
        batch = self._publisher.batch(1)
        parcel = Parcel(route, body, properties, time.time_ns() // 1_000, batch)
        self._publisher.push((parcel,))
        await batch.waiter
        if parcel.outcome is not None:
            raise parcel.outcome

    async def _send_to(
        self, exchange: str, key: str, body: bytes, headers: Mapping[str, Any], message_id: str | None = None
    ) -> None:
        properties = wire.properties(time.time_ns() // 1_000, headers, message_id)
        await self._send(self._route_to(exchange, key), body, properties)

    async def _publish_some(self, envelopes: Sequence[Envelope], pool: str) -> list[TroupeError | None]:
        results: list[TroupeError | None] = [None] * len(envelopes)
        parcels: list[Parcel] = []
        batch = self._publisher.batch(0)
        published, traced = time.time_ns() // 1_000, tracing.recording()
        with contextlib.ExitStack() as spans:
            for index, envelope in enumerate(envelopes):
                try:
                    route = self._route(envelope, pool)
                    named = spans.enter_context(sending(envelope, route.key)) if traced else envelope
                    parcels.append(Parcel(route, _body(named), None, published, batch))
                except TroupeError as error:
                    results[index] = error
            if parcels:
                batch.left = len(parcels)
                with metrics.Publishing(len(parcels)):
                    self._publisher.push(parcels)
                    await batch.waiter
        sent = iter(parcels)
        return [error if error is not None else next(sent).outcome for error in results]

    def _route(self, envelope: Envelope, pool: str) -> Route:
        target = envelope.target
        if not self._shards or (pool and pool not in self._pools):
            raise queue_unknown(task_queue(pool) if pool else mailbox(0))
        shard = self._shard_of(target.tenant, target.namespace, target.agent, target.session, self._shards)
        return self._route_to(topology.IN, task_queue(pool) if pool else mailbox(shard))

    def _route_to(self, exchange: str, key: str) -> Route:
        route = self._routes.get((exchange, key))
        if route is None:
            route = self._routes[exchange, key] = Route(exchange, key)
        return route

    # Topology

    def _known(self, queue: str) -> topology.Queue:
        declaration = topology.found(queue)
        names = (mailbox(shard) for shard in range(self._shards))
        if declaration is None or not (queue in names or queue in {task_queue(pool) for pool in self._pools}):
            raise queue_unknown(queue)
        return declaration

    async def _redeclare(self) -> None:
        if self._shards:
            await _declared(await self._consuming.link(), self._shards, sorted(self._pools))

    async def _prepare(self, link: Link) -> None:
        if self._shards:
            await _declared(link, self._shards, sorted(self._pools))

    async def _mend(self, route: Route) -> None:
        await self._mend_queue(topology.destination(route.exchange, route.key))

    async def _mend_queue(self, name: str) -> None:
        queue = topology.found(name)
        if queue is None:
            raise queue_unknown(name)
        try:
            await self._look(name)
        except NotFound:
            log.warning("a queue is gone, and is declared again", queue=name)
            await asyncio.sleep(NOTICE)
        channel = await Channel.opened(await self._consuming.link())
        try:
            await channel.declare(queue)
        finally:
            await channel.close()

    async def _look(self, queue: str) -> tuple[int, int]:
        link = self._consuming.present
        if link is None:
            raise Unavailable("BROKER_AWAY", "RabbitMQ is away: how full a queue is cannot be said now")
        async with self._looking:  # a queue that is not there ends the channel, for whoever else asks on it
            if self._asking is None or self._asking.closed.done():
                self._asking = await Channel.opened(link)
            return await self._asking.look(queue)

    # Subscriptions

    def _forget(self, subscription: Subscribed) -> None:
        queue = subscription.queue.name
        consumers = self._subscriptions.get(queue, [])
        if subscription in consumers:
            consumers.remove(subscription)
            if not consumers:
                self._ready.pop(queue, None)
                metrics.hide_queue(queue)

    def _unacked(self, queue: str) -> int:
        return sum(consumer.unacked for consumer in self._subscriptions.get(queue, ()))

    def _oldest(self, queue: str) -> float | None:
        """When the oldest unacked message here was published, seconds since the epoch."""
        found = [consumer.oldest for consumer in self._subscriptions.get(queue, ())]
        return min((at for at in found if at is not None), default=None)

    def _known_depth(self, queue: str) -> float:
        """What a consumed queue holds, as of the last look."""
        return self._ready.get(queue, 0) + self._unacked(queue)

    async def _probe(self) -> None:
        """A server that lost a consumer tells nobody. One of another process keeps this one's loss from being seen,
        and then the mailbox is served."""
        while True:
            await asyncio.sleep(PROBE)
            carrying = {queue: [each] for queue, each in self._carrying.items()}
            for queue, consumers in [*self._subscriptions.items(), *carrying.items()]:
                if not consumers:
                    continue
                try:
                    self._ready[queue], known = await self._look(queue)
                except TroupeError:
                    continue
                if known == 0:
                    for consumer in consumers:
                        consumer.renew()

    async def _close(self) -> None:
        await self._publisher.drain(DRAIN)
        subscriptions = [each for consumers in self._subscriptions.values() for each in consumers]
        subscriptions += self._carrying.values()
        if subscriptions:
            await asyncio.wait([asyncio.ensure_future(each.close()) for each in subscriptions])


async def _declared(link: Link, shards: int, pools: Sequence[str]) -> None:
    """Declare everything on this connection. Raises FailedPrecondition for what is there with other arguments."""
    channels = [await Channel.opened(link) for _ in range(_DECLARING)]
    try:
        first = channels[0]
        try:
            await first.declare(topology.marker(shards))
        except FailedPrecondition as error:
            if found := re.search(r"current is '(\d+)'", str(error)):
                raise shards_changed(int(found[1]), shards) from error
            raise
        everything = list(topology.queues(shards, pools))
        await first.declare_all(topology.EXCHANGES, everything[:1])
        async with asyncio.TaskGroup() as tasks:
            for index, channel in enumerate(channels):
                tasks.create_task(channel.declare_all((), everything[1 + index :: _DECLARING]))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        for channel in channels:
            await channel.close()


def _body(envelope: Envelope) -> bytes:
    body = envelope.SerializeToString()
    if len(body) > MAX_BODY:
        raise InvalidArgument(
            "PAYLOAD_TOO_LARGE", f"an envelope of {len(body)} bytes is more than the {MAX_BODY} that RabbitMQ carries"
        )
    return body


def _shard_of(tenant: str, namespace: str, agent: str, session: str, shards: int) -> int:
    reference = SessionRef(tenant=tenant, namespace=namespace, agent=agent, session=session)
    return SessionKey.of(reference).shard(shards)
