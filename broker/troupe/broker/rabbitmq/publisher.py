"""Publishing: everything that is sent is confirmed, or sent again.

Messages leave in the order in which they were handed over, at most WINDOW of them unconfirmed at once; the others
wait in `_backlog`. What the server returned or refused waits with its route until that is mended, and what was
unconfirmed when the connection went is sent again, before anything newer, on the next one. So within a route order
is kept except across refusals; receivers restore it by the numbers in the envelopes.

A message is dropped when nobody waits for it any more, which is how callers give up."""

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog
from pika import spec
from pika.frame import Method

from troupe.broker.metrics import NACKS, RETURNS
from troupe.broker.rabbitmq import metrics, wire
from troupe.broker.rabbitmq.incoming import Confirm, Plain
from troupe.broker.rabbitmq.lane import Lane, pause
from troupe.broker.rabbitmq.link import Channel, Link
from troupe.broker.rabbitmq.parcel import Batch, Parcel, Route
from troupe.chassis.errors import InvalidArgument, NotFound, TroupeError

WINDOW = 1_000
"""Unconfirmed messages. Past some hundred it only adds to what is in doubt when the connection goes."""
BLOCKED_PATIENCE = 5.0
"""Seconds that a message waits to be sent while the server takes none. Then it is refused, so that gateways refuse."""
MAX_BODY = 16 * 1024 * 1024
"""Bytes: what RabbitMQ 4 takes at most. A larger one would close the channel under all others."""
_SWEEP = 0.5

log = structlog.get_logger()


class Publisher:
    """Sends over whatever connection `lane` has. `redeclare` makes what routes need; `mend` one route's queue."""

    def __init__(
        self, lane: Lane, redeclare: Callable[[], Awaitable[None]], mend: Callable[[Route], Awaitable[None]]
    ) -> None:
        self._lane, self._redeclare, self._mend = lane, redeclare, mend
        self._loop = asyncio.get_running_loop()
        self._backlog: deque[Parcel] = deque()
        self._flight: dict[int, Parcel] = {}  # by delivery tag, which counts up from 1 on each channel
        self._tag = 0
        self._channel: Channel | None = None  # while messages may be written
        self._frame_max = 0
        self._out: list[bytes] = []
        self._blocked_since: float | None = None
        self._broken: deque[Route] = deque()  # routes whose repair has not begun
        self._mending: set[Route] = set()
        self._work = asyncio.Event()  # there is a broken route
        self._closed = False

    @property
    def blocked(self) -> bool:
        """Whether the server takes no messages now, because it is short of memory or disk."""
        return self._blocked_since is not None

    async def send(self, route: Route, bodies: Sequence[bytes], properties: bytes | None = None) -> list[Parcel]:
        """Return once each has its outcome. Cancelled: whatever was not written is not sent."""
        batch = Batch(len(bodies), self._loop)
        published = time.time_ns() // 1_000
        parcels = [Parcel(route, body, properties, published, batch) for body in bodies]
        self.push(parcels)
        await batch.waiter
        return parcels

    def batch(self, count: int) -> Batch:
        return Batch(count, self._loop)

    def push(self, parcels: Sequence[Parcel]) -> None:
        """Take messages, to be sent in this order."""
        if self._closed:
            for parcel in parcels:
                parcel.failed("BROKER_CLOSED", "the broker is closed: the process is stopping")
            return
        self._backlog.extend(parcels)
        if self._channel is not None:
            self._pump()

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep())
            tasks.create_task(self._mend_routes(tasks))
            failures = 0
            while True:
                link = await self._lane.link()
                try:
                    lasted = await self._attend(link)
                except TroupeError as error:
                    lasted = False
                    log.warning("publishing is interrupted", error=str(error))
                failures = 0 if lasted else failures + 1
                await asyncio.sleep(pause(failures, random.random()) if failures else 0)

    async def drain(self, patience: float) -> None:
        """Take nothing more, and wait at most this long for what is on its way; the rest fails."""
        self._closed = True
        deadline = self._loop.time() + patience
        while (self._flight or self._backlog) and self._loop.time() < deadline:
            waiters = [parcel.batch.waiter for parcel in (*self._flight.values(), *self._backlog)]
            waiters = [waiter for waiter in waiters if not waiter.done()]
            if not waiters:
                break
            await asyncio.wait(waiters, timeout=deadline - self._loop.time())
        for parcel in self._flight.values():
            parcel.unsure = True
        held = [parcel for route in self._mending for parcel in route.held]
        for parcel in (*self._flight.values(), *held, *self._backlog):
            parcel.failed("BROKER_CLOSED", "the broker is closed: the process is stopping")
        self._flight.clear()
        self._backlog.clear()

    # One connection

    async def _attend(self, link: Link) -> bool:
        """Publish on this connection until its channel goes. Whether it had worked."""
        channel = await Channel.opened(link, wire.CHANNEL)
        channel.raw.add_on_return_callback(self._on_return)
        await channel.call(channel.raw.confirm_delivery, self._on_confirm)
        channel.take(self._take)
        link.add_on_connection_blocked_callback(lambda *_: self._on_blocked())
        link.add_on_connection_unblocked_callback(lambda *_: self._on_unblocked())
        self._frame_max = link.params.frame_max
        self._begin(channel)
        before = self._tag
        try:
            reason = await asyncio.shield(channel.closed)
        finally:
            worked = self._tag > before
            self._end()
        if isinstance(reason, InvalidArgument):
            self._fail_oversized(reason)
        elif isinstance(reason, NotFound):
            await self._redeclare()
        return worked

    def _begin(self, channel: Channel) -> None:
        self._tag = 0
        self._channel = channel
        self._pump()

    def _end(self) -> None:
        """The channel is gone: what was in flight goes first on the next."""
        self._channel = None
        self._out.clear()
        self._on_unblocked()
        for parcel in self._flight.values():
            parcel.unsure, parcel.returned = True, False
        self._backlog.extendleft(reversed(self._flight.values()))
        self._flight.clear()

    def _fail_oversized(self, reason: InvalidArgument) -> None:
        """The server does not say which message it was that closed the channel, but how large it was."""
        sizes = {int(size) for size in re.findall(r"message size (\d+)", str(reason))}
        kept: deque[Parcel] = deque()
        for parcel in self._backlog:
            if len(parcel.body) in sizes:
                parcel.settle(InvalidArgument(reason.reason, str(reason)))
            else:
                kept.append(parcel)
        self._backlog = kept

    # Sending

    def _pump(self) -> None:
        """Write what the window has room for."""
        backlog, flight, tag = self._backlog, self._flight, self._tag
        if self._blocked_since is not None:
            return
        out = self._out
        idle = not out
        room = WINDOW - len(flight)
        while room > 0 and backlog:
            parcel = backlog.popleft()
            if parcel.batch.waiter.done():
                continue
            route = parcel.route
            if route.mending:
                route.held.append(parcel)
                continue
            tag += 1
            room -= 1
            flight[tag] = parcel
            body = parcel.body
            if parcel.properties is None and 0 < len(body) < self._frame_max - 8:
                out.append(wire.plain(route.method, body, parcel.published))
            else:
                properties = parcel.properties or wire.properties(parcel.published)
                out.append(wire.whole(route.method, properties, body, self._frame_max))
        self._tag = tag
        if idle and out:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write for all that was published in this turn of the loop. `_end` takes what was not written."""
        if self._channel is not None and self._out:
            self._channel.emit(b"".join(self._out))
            self._out.clear()

    # What the server says

    def _on_confirm(self, frame: "Method[spec.Basic.Ack | spec.Basic.Nack]") -> None:
        method = frame.method
        if isinstance(method, spec.Basic.Ack):
            self._confirmed(method.delivery_tag, multiple=method.multiple)
            return
        parcels = self._landed(method.delivery_tag, multiple=method.multiple)
        NACKS.inc(len(parcels))
        for parcel in parcels:
            parcel.unsure = True
            self._hold(parcel)
        if self._backlog and self._channel is not None:
            self._pump()

    def _take(self, found: Plain | Confirm) -> None:
        if isinstance(found, Confirm):
            self._confirmed(found.tag, multiple=found.multiple)

    def _confirmed(self, tag: int, *, multiple: bool) -> None:
        for parcel in self._landed(tag, multiple=multiple):
            if parcel.returned:
                self._bounced(parcel)
            else:
                parcel.route.failures = 0
                parcel.settle(None)
        if self._backlog and self._channel is not None:
            self._pump()

    def _landed(self, tag: int, *, multiple: bool) -> list[Parcel]:
        """Those that are not in flight any more."""
        flight = self._flight
        if not multiple:
            return [flight.pop(tag)] if tag in flight else []
        tags = []
        for sent in flight:
            if sent > tag:
                break
            tags.append(sent)
        return [flight.pop(sent) for sent in tags]

    def _on_return(
        self, _channel: object, method: spec.Basic.Return, _properties: spec.BasicProperties, body: bytes
    ) -> None:
        """No queue took a message. It is confirmed all the same, after this. The server does not say its tag, but it
        returns messages in the order in which they were sent."""
        RETURNS.inc()
        for parcel in self._flight.values():
            route = parcel.route
            if (
                not parcel.returned
                and route.key == method.routing_key
                and route.exchange == method.exchange
                and parcel.body == body
            ):
                parcel.returned = True
                return

    def _on_blocked(self) -> None:
        if self._blocked_since is None:
            self._blocked_since = time.monotonic()
            log.warning("the broker takes no messages: it is short of memory or disk")

    def _on_unblocked(self) -> None:
        if self._blocked_since is not None:
            metrics.BLOCKED_SECONDS.inc(time.monotonic() - self._blocked_since)
            self._blocked_since = None
            if self._channel is not None:
                self._pump()

    # Repair

    def _bounced(self, parcel: Parcel) -> None:
        parcel.returned = False
        if parcel.bounced:
            parcel.failed(
                "UNROUTABLE", f"no queue takes messages for {parcel.route.key}, and declaring it did not help"
            )
        else:
            parcel.bounced = True
            self._hold(parcel)

    def _hold(self, parcel: Parcel) -> None:
        """Keep it until its route is mended."""
        route = parcel.route
        route.held.append(parcel)
        if not route.mending:
            route.mending = True
            self._mending.add(route)
            self._broken.append(route)
            self._work.set()

    async def _mend_routes(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            for route in self._broken:
                tasks.create_task(self._mend_route(route))
            self._broken.clear()

    async def _mend_route(self, route: Route) -> None:
        """Declare what the route leads to, and send what waits for it."""
        while True:
            route.failures += 1
            try:
                await self._mend(route)
            except TroupeError as error:
                log.warning("a queue cannot be declared", queue=route.key, error=str(error))
            else:
                if route.failures > 1:  # it is there, and refuses: its members are away, or it has no leader
                    await asyncio.sleep(pause(route.failures, random.random()))
                break
            await asyncio.sleep(pause(route.failures, random.random()))
        self._mending.discard(route)
        held, route.held, route.mending = route.held, [], False
        self._backlog.extendleft(reversed(held))
        if self._channel is not None:
            self._pump()

    async def _sweep(self) -> None:
        """While nothing can be sent: forget what nobody waits for, and refuse what waited too long for a server that
        takes nothing. Ends nothing that may have been sent."""
        while True:
            await asyncio.sleep(_SWEEP)
            if self._channel is not None and self._blocked_since is None:
                continue
            bound = time.time_ns() // 1_000 - int(BLOCKED_PATIENCE * 1e6)
            kept: deque[Parcel] = deque()
            for parcel in self._backlog:
                if parcel.batch.waiter.done():
                    continue
                if self._blocked_since is not None and not parcel.unsure and parcel.published < bound:
                    parcel.failed("BROKER_BLOCKED", "RabbitMQ takes no messages: it is short of memory or disk")
                else:
                    kept.append(parcel)
            self._backlog = kept
