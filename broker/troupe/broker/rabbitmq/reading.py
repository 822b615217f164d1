"""Looking through a pool's dead letters: taken from their queue without an ack, and given back at the end."""

import asyncio
import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

from pika import exceptions, spec

from troupe.broker.port import DeadLetter, HeldLetter
from troupe.broker.rabbitmq import errors, letters, topology
from troupe.broker.rabbitmq.lane import Lane
from troupe.broker.rabbitmq.link import CLOSE_TIMEOUT, Channel
from troupe.chassis.errors import TroupeError

PAGE = 256
"""Letters that are in this process at once. The server may hold any number of taken ones."""
RETURN_TIMEOUT = 1.0
"""Seconds that leaving waits for letters to be back in their queue; others may have taken them."""
QUIET = 0.2
"""Seconds without a letter after which the queue is asked whether it has more."""

_tags = itertools.count(1)


@contextlib.asynccontextmanager
async def reading(lane: Lane, pool: str) -> AsyncIterator[AsyncIterator[HeldLetter]]:
    """See `Broker.dead_letters`. Letters that come in meanwhile may be shown too."""
    channel = await Channel.opened(await lane.link())
    pages = _Pages(channel, pool)
    try:
        async with contextlib.aclosing(pages.letters()) as found:
            yield found
    finally:
        with contextlib.suppress(TimeoutError, TroupeError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await channel.close()
                await _returned(lane, pages)


async def _returned(lane: Lane, pages: "_Pages") -> None:
    """Wait until what was given back is in its queue again: the server agrees to close a channel before that."""
    if not pages.given_back:
        return
    channel = await Channel.opened(await lane.link())
    try:
        async with asyncio.timeout(RETURN_TIMEOUT):
            # A server tells nobody when it has put messages back.
            while (await channel.look(pages.queue.name))[0] < pages.given_back:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    finally:
        await channel.close()


class _Held:
    """See HeldLetter."""

    def __init__(self, pages: "_Pages", tag: int, letter: DeadLetter) -> None:
        self._pages, self._tag, self._letter = pages, tag, letter
        self._removed = False

    @property
    def letter(self) -> DeadLetter:
        return self._letter

    async def remove(self) -> None:
        channel = self._pages.channel
        if not self._removed:
            try:
                channel.raw.basic_ack(self._tag)
            except exceptions.AMQPError as error:
                raise errors.lost(error) from error
            self._removed = True
            self._pages.given_back -= 1
        # An ack has no answer. What comes after it on its channel is answered after it.
        await channel.call(channel.raw.basic_qos, prefetch_count=PAGE)


class _Pages:
    """A consumer holds PAGE letters unacked and gets no more; the next one gets the next PAGE."""

    def __init__(self, channel: Channel, pool: str) -> None:
        self.channel, self._pool = channel, pool
        self.queue = topology.letter_queue(pool)
        self.given_back = 0
        """Letters that go back when the channel is closed."""
        self._arrived: deque[_Held] = deque()
        self._change = asyncio.Event()

    async def letters(self) -> AsyncGenerator[HeldLetter, None]:
        channel = self.channel
        channel.closed.add_done_callback(lambda _: self._change.set())
        left = await channel.declare(self.queue)
        await channel.call(channel.raw.basic_qos, prefetch_count=PAGE)
        while left > 0:
            tag = f"{self.queue.name}-{os.getpid()}-{next(_tags)}"
            await channel.call(channel.raw.basic_consume, self.queue.name, self._take, consumer_tag=tag)
            taken = 0
            while taken < PAGE and left > 0:
                while self._arrived and left > 0:
                    taken, left = taken + 1, left - 1
                    yield self._arrived.popleft()
                if taken < PAGE and left > 0 and not await self._more():
                    left = 0
            await channel.call(channel.raw.basic_cancel, tag)

    async def _more(self) -> bool:
        """Wait for the next letter; False where there is none."""
        self._change.clear()
        while not self._arrived:
            if self.channel.closed.done():
                raise self.channel.closed.result()
            try:
                async with asyncio.timeout(QUIET):
                    await self._change.wait()
            except TimeoutError:
                waiting, _ = await self.channel.look(self.queue.name)
                if waiting == 0 and not self._arrived:
                    return False
            self._change.clear()
        return True

    def _take(
        self, _channel: object, method: spec.Basic.Deliver, properties: spec.BasicProperties, body: bytes
    ) -> None:
        published = properties.timestamp / 1e6 if properties.timestamp else time.time()
        self.given_back += 1
        letter = letters.read(self._pool, body, properties.headers or {}, properties.message_id, published)
        self._arrived.append(_Held(self, cast(int, method.delivery_tag), letter))
        self._change.set()
