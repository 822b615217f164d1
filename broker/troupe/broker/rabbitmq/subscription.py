"""Consuming: one channel for each subscription, made again whenever it is lost."""

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import structlog
from pika import channel as pika_channel
from pika import spec
from pika.frame import Method

from troupe.broker.metrics import ACKS, DELIVERIES, REDELIVERIES
from troupe.broker.port import Delivery
from troupe.broker.rabbitmq import metrics, wire
from troupe.broker.rabbitmq.acks import Acks
from troupe.broker.rabbitmq.incoming import Confirm, Plain
from troupe.broker.rabbitmq.lane import Lane, pause
from troupe.broker.rabbitmq.link import CLOSE_TIMEOUT, Channel, Link
from troupe.broker.rabbitmq.telling import Teller
from troupe.broker.rabbitmq.topology import Queue
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable

_tags = itertools.count(1)
log = structlog.get_logger()

Handler = Callable[[Delivery, spec.Basic.Deliver, spec.BasicProperties], None]
"""Gets deliveries, with what the server says of each."""
PlainHandler = Callable[[Delivery], None]
"""Gets those of which there is nothing to say; where there is none, they go to the other one too."""


class Hold:
    """One channel's deliveries. They are void once it is gone. `number` counts a subscription's channels."""

    def __init__(self, queue: str, number: int, handler: Handler, plain: PlainHandler | None = None) -> None:
        self._queue, self._number, self._handler, self._plain = queue, number, handler, plain
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._teller: Teller | None = None
        self._tag, self._prefetch = "", 0
        self._changing, self._news = asyncio.Lock(), asyncio.Event()
        self._cancelled = False
        self._acks = Acks()
        self._told_at = 0  # the newest unacked delivery when acks were told
        self._kept = 0  # how many were unacked then and the time before: they keep their places for long
        self.unacked: dict[int, float] = {}
        """When each was published, by delivery tag, so oldest first."""
        self.ended: asyncio.Future[TroupeError] = self._loop.create_future()

    async def open(self, link: Link, queue: Queue, prefetch: int) -> None:
        """Begin to consume. Raises Unavailable and what `Channel.declare` does."""
        channel = self._channel = await Channel.opened(link)
        self._teller = link.acks
        channel.closed.add_done_callback(self._on_closed)
        channel.raw.add_on_cancel_callback(self._on_cancel)
        if self._plain is not None:
            channel.take(partial(self._take, self._plain))
        await channel.declare(queue)
        await self._consume(channel, prefetch)

    @property
    def changing(self) -> bool:
        """It has no consumer for now, and will have one."""
        return self._changing.locked()

    async def limit(self, prefetch: int) -> None:
        """At most so many unacked from now on. RabbitMQ never changes a consumer's prefetch, and has none for all of a
        channel where queues are quorum queues. So another consumer takes its place on this channel, on which what is
        unacked stays so: at once where it may hold more, and once both together keep to the old number where it may
        hold fewer."""
        async with self._changing:
            if self._channel is None or self._stopped or prefetch == self._prefetch:
                return
            beside = self._prefetch - prefetch if prefetch < self._prefetch else prefetch
            try:
                await self._leave(self._channel)
                while len(self.unacked) > beside and not self._stopped:
                    self._news.clear()
                    await self._news.wait()
                if not self._stopped:
                    await self._consume(self._channel, prefetch)
            except TroupeError as error:
                self._end(error)

    async def cancel(self) -> None:
        """Stop deliveries. What is unacked may still be acked."""
        self._cancelled = True
        self._news.set()
        async with self._changing:
            if self._channel is not None and not self.ended.done():
                with contextlib.suppress(TroupeError):
                    await self._leave(self._channel)

    async def close(self) -> None:
        """Give back what is unacked."""
        if self._teller is not None:
            self._teller.tell()
        self.unacked.clear()
        if self._channel is not None and not self._channel.closed.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._channel.close()

    @property
    def _stopped(self) -> bool:
        return self._cancelled or self.ended.done()

    async def _consume(self, channel: Channel, prefetch: int) -> None:
        await channel.call(channel.raw.basic_qos, prefetch_count=prefetch)
        self._prefetch = prefetch
        self._tag = f"{self._queue}-{os.getpid()}-{next(_tags)}"
        await channel.call(channel.raw.basic_consume, self._queue, self._deliver, consumer_tag=self._tag)

    async def _leave(self, channel: Channel) -> None:
        tag, self._tag = self._tag, ""
        if tag:
            await channel.leave(tag)

    def _deliver(
        self, _channel: pika_channel.Channel, method: spec.Basic.Deliver, properties: spec.BasicProperties, body: bytes
    ) -> None:
        tag = cast(int, method.delivery_tag)
        redeliveries = 0
        if method.redelivered:
            counted = cast(int, (properties.headers or {}).get("x-delivery-count", 1))
            redeliveries = int(counted) or 1  # pika's integers are of a type of its own
            REDELIVERIES.inc()
        self._handler(self._delivery(tag, properties.timestamp, redeliveries, body), method, properties)

    def _take(self, handler: PlainHandler, found: Plain | Confirm) -> None:
        if isinstance(found, Plain):
            handler(self._delivery(found.tag, found.published, 0, found.body))

    def _delivery(self, tag: int, timestamp: int | None, redeliveries: int, body: bytes) -> Delivery:
        published = self.unacked[tag] = timestamp / 1e6 if timestamp else time.time()
        DELIVERIES.inc()
        return Delivery(body, self._queue, published, redeliveries, partial(self._settle, tag), channel=self._number)

    def _settle(self, tag: int) -> None:
        if self.unacked.pop(tag, None) is None:
            return
        fresh = self._acks.add(tag)
        if self._teller is not None:
            # The server stops at the prefetch. Until half of the places that come free at all are, it need not know.
            self._teller.owe(self._acked, at_once=2 * fresh >= self._prefetch - self._kept)
        self._news.set()

    def _acked(self) -> bytes:
        """What is to be said of all that was acked since."""
        count, up_to, single = self._acks.take()
        ACKS.inc(count)
        self._kept = sum(tag <= self._told_at for tag in self.unacked)
        self._told_at = next(reversed(self.unacked), self._told_at)
        # A channel that is gone has none of them unacked any more.
        if self._channel is None or not self._channel.raw.is_open:
            return b""
        number = self._channel.raw.channel_number
        frames = [wire.ack(number, up_to, multiple=True)] if up_to else []
        frames += (wire.ack(number, tag, multiple=False) for tag in single)
        return b"".join(frames)

    def _on_cancel(self, frame: "Method[spec.Basic.Cancel]") -> None:
        self._end(Unavailable("CONSUMER_CANCELLED", f"RabbitMQ cancelled the consumer of {self._queue}"))

    def _on_closed(self, closed: "asyncio.Future[TroupeError]") -> None:
        self._end(closed.result())

    def _end(self, reason: TroupeError) -> None:
        self.unacked.clear()
        if not self.ended.done():
            self.ended.set_result(reason)
        self._news.set()


class Subscribed:
    """See `troupe.broker.port.Subscription`. `run` keeps it up."""

    def __init__(
        self,
        lane: Lane,
        queue: Queue,
        handler: Handler,
        prefetch: int,
        on_close: Callable[["Subscribed"], None] = lambda _: None,
        plain: PlainHandler | None = None,
    ) -> None:
        self._lane, self.queue, self._handler, self._prefetch = lane, queue, handler, prefetch
        self._on_close, self._plain = on_close, plain
        self._hold: Hold | None = None
        self._cancelled = False
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Subscribe; returns once that is done. Raises FailedPrecondition where the queue is there with other
        arguments, and Unavailable when this is closed first. Cancelled: it is undone."""
        self._task = tasks.create_task(self._run())
        try:
            await self._first
        except BaseException:
            self._task.cancel()
            self._on_close(self)
            raise

    @property
    def connected(self) -> bool:
        return self._hold is not None

    @property
    def unacked(self) -> int:
        return len(self._hold.unacked) if self._hold else 0

    @property
    def oldest(self) -> float | None:
        """When the oldest unacked message was published, seconds since the epoch."""
        return next(iter(self._hold.unacked.values()), None) if self._hold else None

    async def limit(self, prefetch: int) -> None:
        self._prefetch = prefetch
        if self._hold is not None:
            await self._hold.limit(prefetch)

    async def cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            await _ended(self._task)
        if self._hold is not None:
            await self._hold.cancel()

    async def close(self) -> None:
        if self._task is not None:
            await _ended(self._task)
        if not self._first.done():
            self._first.set_exception(Unavailable("BROKER_CLOSED", "the broker is closed: the process is stopping"))
            self._first.exception()  # there may be nobody to hear it
        hold, self._hold = self._hold, None
        if hold is not None:
            await hold.close()
        self._on_close(self)

    def renew(self) -> None:
        """The server does not know of the consumer: begin anew."""
        if self._hold is not None and not self._hold.changing:
            self._hold._end(Unavailable("CONSUMER_LOST", f"RabbitMQ knows no consumer of {self.queue.name}"))

    async def _run(self) -> None:
        failures = 0
        for number in itertools.count():
            link = await self._lane.link()
            hold = Hold(self.queue.name, number, self._handler, self._plain)
            try:
                await hold.open(link, self.queue, self._prefetch)
            except FailedPrecondition as error:
                if not self._first.done():
                    self._first.set_exception(error)
                    return
                failures += 1
                log.error("cannot consume", queue=self.queue.name, error=str(error))
            except TroupeError as error:
                failures += 1
                log.warning("cannot consume", queue=self.queue.name, error=str(error))
            except asyncio.CancelledError:
                await hold.close()
                raise
            else:
                failures = 0
                self._hold = hold
                if self._first.done():
                    metrics.RESUBSCRIPTIONS.inc()
                else:
                    self._first.set_result(None)
                try:
                    await hold.limit(self._prefetch)  # it may have changed meanwhile
                    reason = await asyncio.shield(hold.ended)
                except asyncio.CancelledError:
                    if not self._cancelled:
                        self._hold = None
                        await hold.close()
                    raise
                log.warning("subscription lost", queue=self.queue.name, error=str(reason))
                self._hold = None
                await hold.close()
            await asyncio.sleep(pause(failures + 1, random.random()))


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
