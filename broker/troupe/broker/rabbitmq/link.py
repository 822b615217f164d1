"""One connection to RabbitMQ on the running loop, and its channels: pika's callbacks as coroutines.

Belongs to the loop and the process that opened it. pika's own log is switched off: what it says of a connection that
fails is several tracebacks, and each such failure is reported once, as a sentence, by whoever keeps the connection."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import pika
from pika import channel as pika_channel
from pika import exceptions
from pika.adapters.asyncio_connection import AsyncioConnection

from troupe.broker.rabbitmq import errors, incoming
from troupe.broker.rabbitmq.telling import Teller
from troupe.broker.rabbitmq.topology import Exchange, Queue
from troupe.chassis.errors import TroupeError

CLOSE_TIMEOUT = 2.0
"""Seconds for the server to take leave."""

logging.getLogger("pika").setLevel(logging.CRITICAL)


Taker = Callable[[incoming.Plain | incoming.Confirm], None]


class Link(AsyncioConnection):
    """One connection. `down` is done, with the reason, when it is gone."""

    def __init__(self, parameters: pika.ConnectionParameters) -> None:
        loop = asyncio.get_running_loop()
        self.up: asyncio.Future[None] = loop.create_future()
        self.down: asyncio.Future[TroupeError] = loop.create_future()
        self._where = f"{parameters.host}:{parameters.port}"
        self._tls = parameters.ssl_options is not None
        self.takers: dict[int, Taker] = {}
        """By channel: who gets what `incoming` can read. Where there is none, pika has it."""
        self.acks = Teller(self.emit)
        super().__init__(
            parameters,
            on_open_callback=lambda _: _settle(self.up, None),
            on_open_error_callback=self._refused,
            on_close_callback=self._lost,
            custom_ioloop=loop,
        )

    @classmethod
    async def opened(cls, parameters: pika.ConnectionParameters) -> Self:
        """Connect. Raises FailedPrecondition where trying again changes nothing, else Unavailable."""
        link = cls(parameters)
        try:
            await link.up
        except asyncio.CancelledError:
            with contextlib.suppress(exceptions.AMQPError):
                link.close()
            raise
        return link

    def emit(self, frames: bytes) -> None:
        """Write frames that are encoded already."""
        self._output_marshaled_frames([frames])  # type: ignore[attr-defined]  # no public way takes encoded frames

    def abort(self) -> None:
        """Drop the connection without a word."""
        if not self.down.done():
            # No public way ends a connection whose peer does not answer.
            self._terminate_stream(exceptions.ConnectionClosedByClient(200, "aborted"))  # type: ignore[attr-defined]

    async def leave(self) -> None:
        """Close in good order, or after CLOSE_TIMEOUT without."""
        if self.down.done():
            return
        try:
            with contextlib.suppress(exceptions.AMQPError):
                self.close()
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.shield(self.down)
        except TimeoutError:
            self.abort()
        except asyncio.CancelledError:
            self.abort()
            raise

    def _read_frame(self) -> tuple[int, Any]:
        """pika asks for the next frame. What stands before it is handed over, once all of that is read: a taker may do
        with the connection what it likes."""
        buffer: bytes = self._frame_buffer  # type: ignore[attr-defined]  # no public way sees a frame before its callbacks
        found, at = [], 0
        while True:
            one, end = incoming.first(buffer, at)
            if one is None or one.channel not in self.takers:
                break
            found.append(one)
            at = end
        if found:
            self._trim_frame_buffer(at)  # type: ignore[attr-defined]
            for each in found:
                if (taker := self.takers.get(each.channel)) is not None:
                    taker(each)
        if end > len(buffer):
            return 0, None
        try:
            return super()._read_frame()  # type: ignore[misc,no-any-return]
        except incoming.UNREADABLE:
            # Its message must not end the connection for all others, again whenever it comes: it comes without them.
            if (read := incoming.bare(self._frame_buffer)) is None:  # type: ignore[attr-defined]
                raise
            return read

    def _refused(self, _link: object, reason: BaseException) -> None:
        error = errors.refused(reason, self._where, tls=self._tls)
        if not self.up.done():
            self.up.set_exception(error)
        _settle(self.down, error)

    def _lost(self, _link: object, reason: BaseException) -> None:
        _settle(self.down, errors.lost(reason))


class Channel:
    """One channel of a link. `closed` is done, with the reason, when it is gone; a call that waits then raises it."""

    def __init__(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        self._link = link
        self.closed: asyncio.Future[TroupeError] = loop.create_future()
        self.raw: pika_channel.Channel
        self._waiting: set[asyncio.Future[Any]] = set()

    @classmethod
    async def opened(cls, link: Link, number: int | None = None) -> "Channel":
        """Raises Unavailable. Cancelled: it is closed."""
        channel = cls(link)
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel._waiting.add(opened)
        try:
            channel.raw = link.channel(number, on_open_callback=lambda _: _settle(opened, None))
        except exceptions.AMQPError as error:
            raise errors.lost(error) from error
        channel.raw.add_on_close_callback(channel._on_closed)
        try:
            await opened
        except asyncio.CancelledError:
            with contextlib.suppress(exceptions.AMQPError):
                channel.raw.close()
            raise
        channel._waiting.discard(opened)
        return channel

    def emit(self, frames: bytes) -> None:
        """Write frames of this channel that are encoded already; nothing where it is going."""
        # A server takes what comes on a channel that it closed for a breach of the protocol, and ends the connection.
        if self.raw.is_open:
            self._link.emit(frames)

    def take(self, taker: Taker) -> None:
        """Hand over what `incoming` can read of this channel, in place of pika's callbacks for it."""
        self._link.takers[self.raw.channel_number] = taker

    async def call(self, method: Callable[..., object], /, *arguments: object, **named: object) -> Any:
        """Call one of `raw`'s methods that take a callback, and await what the server answers. Raises what
        `errors.closed` says when the channel closes first."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.add(answer)
        try:
            method(*arguments, callback=partial(_settle, answer), **named)
            return await answer
        except exceptions.AMQPError as error:
            raise errors.closed(error) from error
        finally:
            self._waiting.discard(answer)

    async def declare(self, queue: Queue) -> int:
        """Make a queue with its bindings, where it is not there; how many messages wait in it. Raises
        FailedPrecondition when it is there with other arguments."""
        declared = await self.call(self.raw.queue_declare, queue.name, durable=True, arguments=queue.arguments)
        for exchange, key in queue.bindings:
            await self.call(self.raw.queue_bind, queue.name, exchange, key)
        count: int = declared.method.message_count
        return count

    async def declare_all(self, exchanges: tuple[Exchange, ...], queues: list[Queue]) -> None:
        """As `declare`, of many: nothing is awaited until the last, since the server works in order."""
        try:
            for exchange in exchanges:
                self.raw.exchange_declare(exchange.name, exchange.kind, durable=True, arguments=exchange.arguments)
            for queue in queues:
                self.raw.queue_declare(queue.name, durable=True, arguments=queue.arguments)
                for name, key in queue.bindings:
                    self.raw.queue_bind(queue.name, name, key)
        except exceptions.AMQPError as error:
            raise errors.closed(error) from error
        await self.call(self.raw.basic_qos, prefetch_count=0)

    async def look(self, queue: str) -> tuple[int, int]:
        """How many messages wait in a queue, and how many consumers it has. Raises NotFound, and the channel is
        gone."""
        found = await self.call(self.raw.queue_declare, queue, passive=True)
        return found.method.message_count, found.method.consumer_count

    async def leave(self, tag: str) -> None:
        """Cancel a consumer. What is on its way to it is still handed over: pika would give it back, so that it came
        again behind others, and as redelivered. Raises what `errors.closed` says when the channel closes first."""

        def cancel(callback: Callable[[object], None]) -> None:
            self.raw.basic_cancel(tag, callback)
            self.raw._cancelled.discard(tag)  # type: ignore[attr-defined]  # no public way keeps pika from rejecting

        await self.call(cancel)

    async def close(self) -> None:
        """Close it; returns when the server agreed, or is gone."""
        if self.closed.done():
            return
        # From here on nothing is handed over: pika drops what comes to a channel that closes.
        self._link.takers.pop(self.raw.channel_number, None)
        with contextlib.suppress(exceptions.AMQPError):
            self.raw.close()
        await asyncio.shield(self.closed)

    def _on_closed(self, _channel: object, reason: BaseException) -> None:
        self._link.takers.pop(self.raw.channel_number, None)
        _settle(self.closed, errors.closed(reason))
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(errors.closed(reason))


def _settle(future: "asyncio.Future[Any]", value: object) -> None:
    if not future.done():
        future.set_result(value)
