"""Mailboxes that live as long as the process: for tests, and for embedding where durability is not wanted."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

from troupe.broker import metrics
from troupe.broker.addressing import SessionKey, mailbox
from troupe.broker.mailbox import Mailbox, Stored
from troupe.broker.port import (
    PREFETCH,
    DeadLetter,
    Delivery,
    Depth,
    MailboxFull,
    Subscription,
    mailbox_unknown,
    shards_changed,
)
from troupe.chassis.clock import Clock, SystemClock
from troupe.v1.envelope_pb2 import Envelope


class MemoryBroker:
    """See `troupe.broker.port.Broker`. `max_depth` bounds each mailbox."""

    def __init__(self, max_depth: int = 1_000_000, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._max_depth = max_depth
        self._ids = itertools.count(1)
        self._mailboxes: dict[str, Mailbox] = {}
        self._letters: list[DeadLetter] = []

    async def declare(self, shards: int) -> None:
        if self._mailboxes and len(self._mailboxes) != shards:
            raise shards_changed(len(self._mailboxes), shards)
        for shard in range(shards):
            self._mailboxes.setdefault(mailbox(shard), Mailbox(mailbox(shard)))

    async def publish(self, envelope: Envelope) -> None:
        box = self._mailbox(mailbox(SessionKey.of(envelope.target).shard(len(self._mailboxes))))
        with metrics.publishing():
            if box.messages >= self._max_depth:
                raise MailboxFull.of(box.name, self._max_depth)
            box.push(Stored(next(self._ids), envelope.SerializeToString(), self._clock.now()))
            # Consumers have their turn while somebody publishes in a loop.
            await asyncio.sleep(0)

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        return self._mailbox(queue).subscribe(handler, prefetch)

    async def dead_letter(self, letter: DeadLetter) -> None:
        self._letters.append(letter)
        metrics.dead_lettered(letter.reason)

    async def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        return self._letters[:limit]

    async def depth(self, queue: str) -> Depth:
        box = self._mailbox(queue)
        return Depth(box.messages, box.oldest)

    def _mailbox(self, queue: str) -> Mailbox:
        try:
            return self._mailboxes[queue]
        except KeyError:
            raise mailbox_unknown(queue) from None
