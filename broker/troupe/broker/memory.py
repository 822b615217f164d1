"""Queues that live as long as the process: for tests, and for embedding where durability is not wanted."""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from troupe.broker import metrics
from troupe.broker.addressing import SessionKey, mailbox, task_queue
from troupe.broker.alarm import Alarm
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
from troupe.broker.queue import Queue, Stored
from troupe.broker.spans import sending
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import TroupeError
from troupe.v1.envelope_pb2 import Envelope


class MemoryBroker:
    """See `troupe.broker.port.Broker`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._ids = itertools.count(1)
        self._shards = 0
        self._queues: dict[str, Queue] = {}
        self._deferred: list[tuple[float, int, str, bytes]] = []
        """A heap: when it is due, a number that keeps the order, its queue, its body."""
        self._alarm = Alarm(self._clock, self._return_deferred)
        self._letters: dict[str, dict[str, DeadLetter]] = {}
        self._pools = {AGENTS}

    async def declare(self, shards: int, pools: Sequence[str] = ()) -> None:
        check_pools(pools)
        if self._shards and self._shards != shards:
            raise shards_changed(self._shards, shards)
        self._shards = shards
        self._pools.update(pools)
        for name in map(mailbox, range(shards)):
            self._add(name, shared=False)
        for name in map(task_queue, pools):
            self._add(name, shared=True)

    async def publish(self, envelope: Envelope, pool: str = "") -> None:
        queue = self._route(envelope, pool)
        with metrics.Publishing(), sending(envelope, queue.name) as sent:
            self._push(queue, sent)
            # Consumers have their turn while somebody publishes in a loop.
            await asyncio.sleep(0)

    async def publish_many(self, envelopes: Sequence[Envelope], pool: str = "") -> Sequence[TroupeError | None]:
        outcomes: list[TroupeError | None] = []
        for envelope in envelopes:
            try:
                queue = self._route(envelope, pool)
            except TroupeError as error:
                outcomes.append(error)
            else:
                with metrics.Publishing(), sending(envelope, queue.name) as sent:
                    self._push(queue, sent)
                outcomes.append(None)
        await asyncio.sleep(0)
        return outcomes

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        return self._queue(queue).subscribe(handler, prefetch)

    async def defer(self, delivery: Delivery, delay: float) -> None:
        check_deferral(delivery, delay)
        attempt, body = retried(delivery.body)
        due = self._clock.now() + delay
        heapq.heappush(self._deferred, (due, next(self._ids), delivery.queue, body))
        self._alarm.set(due)
        metrics.deferred(attempt)
        delivery.ack()

    async def dead_letter(self, letter: DeadLetter) -> None:
        self._letters.setdefault(letter.pool, {})[letter.id] = letter
        metrics.dead_lettered(letter.reason)

    @contextlib.asynccontextmanager
    async def dead_letters(self, pool: str = AGENTS) -> AsyncIterator[AsyncIterator[HeldLetter]]:
        if pool not in self._pools:
            raise pool_unknown(pool)
        letters = self._letters.setdefault(pool, {})

        async def held() -> AsyncIterator[HeldLetter]:
            for letter in list(letters.values()):
                yield _Held(letter, letters)

        yield held()

    async def depth(self, queue: str) -> Depth:
        found = self._queue(queue)
        return Depth(found.messages, found.oldest)

    def kept(self, pool: str = AGENTS) -> list[DeadLetter]:
        """The pool's dead letters, at once."""
        return list(self._letters.get(pool, {}).values())

    def shut(self) -> None:
        """Deliver nothing more, and show no queue."""
        self._alarm.off()
        for name, queue in self._queues.items():
            queue.shut()
            metrics.hide_queue(name)

    def _add(self, name: str, *, shared: bool) -> None:
        if name not in self._queues:
            queue = self._queues[name] = Queue(name, shared)
            metrics.show_queue(name, lambda: queue.messages, lambda: queue.oldest, self._clock.now)

    def _route(self, envelope: Envelope, pool: str) -> Queue:
        key = SessionKey.of(envelope.target)
        return self._queue(task_queue(pool) if pool else mailbox(key.shard(self._shards)))

    def _queue(self, name: str) -> Queue:
        try:
            return self._queues[name]
        except KeyError:
            raise queue_unknown(name) from None

    def _push(self, queue: Queue, envelope: Envelope) -> None:
        queue.push(Stored(next(self._ids), envelope.SerializeToString(), self._clock.now()))

    def _return_deferred(self) -> None:
        now = self._clock.now()
        while self._deferred and self._deferred[0][0] <= now:
            _, _, queue, body = heapq.heappop(self._deferred)
            self._queues[queue].push(Stored(next(self._ids), body, now))
        if self._deferred:
            self._alarm.set(self._deferred[0][0])


@dataclass(frozen=True, slots=True)
class _Held:
    """See `troupe.broker.port.HeldLetter`."""

    letter: DeadLetter
    _letters: dict[str, DeadLetter]

    async def remove(self) -> None:
        self._letters.pop(self.letter.id, None)
