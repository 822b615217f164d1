"""What lies between a process and its store and broker: calls are slow, fail, lose their replies, come late."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import decode
from troupe.broker.memory import MemoryBroker
from troupe.broker.order import Number
from troupe.broker.port import AGENTS, PREFETCH, DeadLetter, Delivery, Depth, HeldLetter, Subscription
from troupe.broker.queue import Queue, Stored
from troupe.chassis.errors import TroupeError, Unavailable
from troupe.dataplane.state.port import (
    Attempt,
    Backlog,
    Begun,
    Claimed,
    Control,
    Due,
    Entry,
    Loaded,
    Mark,
    Owner,
    Placed,
    Promise,
    Record,
    SessionSummary,
    Settlement,
    StateStore,
    TurnCommit,
    Verbs,
)
from troupe.v1.agent_pb2 import Verb, VerbAnswer
from troupe.v1.envelope_pb2 import ENVELOPE_KIND_PROBE, Envelope
from troupe.v1.promise_pb2 import SettlementAnswer
from troupe.v1.turn_pb2 import Fate

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely a call goes wrong, and how; and how slow it may be, in seconds."""

    refused: float = 0.0
    reply_lost: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    slowest: float = 0.0


class Link:
    """One process's way to one server."""

    def __init__(self, name: str, dice: random.Random, weather: Weather, log: Callable[[str], None]) -> None:
        self._name, self._dice, self._weather, self._log = name, dice, weather, log
        self._down_until, self._share = 0.0, 1.0
        self.dead = False

    def cut(self, seconds: float, share: float = 1.0) -> None:
        """Nothing gets through for so long, or this share of the calls does not."""
        self._down_until, self._share = asyncio.get_running_loop().time() + seconds, share

    def away(self) -> float:
        """Seconds for which nothing at all gets through."""
        return max(0.0, self._down_until - asyncio.get_running_loop().time()) if self._share == 1.0 else 0.0

    def heal(self) -> None:
        self._down_until, self._weather = 0.0, Weather()

    async def call(self, what: str, work: Callable[[], Awaitable[T]], *, late: bool = True) -> T:
        """Carry `work` out, unless it is lost on the way. A call that is cancelled may be carried out all the same,
        later, if it may be `late`. Raises Unavailable."""
        if self.dead:
            raise asyncio.CancelledError
        dice, weather, loop = self._dice, self._weather, asyncio.get_running_loop()
        fate = dice.random()
        down = loop.time() < self._down_until and dice.random() < self._share
        if down or fate < weather.refused:
            await asyncio.sleep(dice.choice((0.001, 0.5)))
            raise self._lost(what, "refused")
        fate -= weather.refused
        try:
            await asyncio.sleep(self._latency())
        except asyncio.CancelledError:
            if late and dice.random() < 0.5:
                self._later(what, work, dice.choice((0.0, 0.0, 0.01, 2.0)))
            raise
        if self.dead:
            raise asyncio.CancelledError
        if late and fate < weather.late:
            self._later(what, work, dice.choice((0.01, 0.3, 2.0, 8.0)))
            await asyncio.sleep(0.2)
            raise self._lost(what, "comes late")
        fate -= weather.late
        result = await work()
        self._log(f"{self._name} {what}: {result!r:.160}")
        if fate < weather.reply_lost:
            await asyncio.sleep(0.2)
            raise self._lost(what, "reply lost")
        await asyncio.sleep(self._latency())
        return result

    def _latency(self) -> float:
        if self._weather.slow and self._dice.random() < self._weather.slow:
            return self._dice.uniform(0.0, self._weather.slowest)
        return self._dice.uniform(0.0001, 0.001)

    def _later(self, what: str, work: Callable[[], Awaitable[T]], seconds: float) -> None:
        def carry_out() -> None:
            self._log(f"{self._name} {what} carried out late")
            # Scripts of both back ends never wait where that matters: one step brings about all that they do.
            steps = work().__await__()
            try:
                next(steps)
            except StopIteration:
                return
            except Exception as error:
                self._log(f"{self._name} {what} late: {error}")

        asyncio.get_running_loop().call_later(seconds, carry_out)

    def _lost(self, what: str, how: str) -> Unavailable:
        self._log(f"{self._name} {what} {how}")
        return Unavailable("CUT", f"{what}: {how}")


class RemoteStore:
    """A StateStore behind a link."""

    def __init__(self, link: Link, store: StateStore) -> None:
        self._link, self._store = link, store

    async def declare(self, shards: int) -> None:
        await self._link.call("declare", lambda: self._store.declare(shards))

    async def claim(self, owner: Owner) -> Claimed:
        return await self._link.call(f"claim {owner.shard}", lambda: self._store.claim(owner))

    async def load(self, key: SessionKey) -> Loaded:
        return await self._link.call(f"load {key}", lambda: self._store.load(key))

    async def due(self, owner: Owner, busy: Collection[SessionKey] = ()) -> Due:
        return await self._link.call(f"due {owner.shard}", lambda: self._store.due(owner, busy))

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool = False) -> Placed:
        return await self._link.call(
            f"put {entry.message_id} {entry.number.stream}:{entry.number.sequence} running={entry.running}",
            lambda: self._store.put(owner, key, entry, envelope, busy=busy),
        )

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        return await self._link.call(
            f"begin {entry.message_id} {entry.number.stream}:{entry.number.sequence}",
            lambda: self._store.begin(owner, key, entry),
        )

    async def journal(
        self,
        owner: Owner,
        key: SessionKey,
        attempt: Attempt,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        kept = dict(steps)
        await self._link.call(
            f"journal {attempt.message_id} {kept}",
            lambda: self._store.journal(
                owner, key, attempt, kept, starts=starts, compensates=compensates, promises=promises
            ),
        )

    async def suspend(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> bool:
        return await self._link.call(
            f"suspend {entry.message_id} {entry.awaits}", lambda: self._store.suspend(owner, key, entry, envelope)
        )

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        await self._link.call(
            f"retry {entry.message_id} {entry.number.stream}:{entry.number.sequence}",
            lambda: self._store.retry(owner, key, entry, envelope),
        )

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        return await self._link.call(
            f"commit {commit.message_id} {commit.number.stream}:{commit.number.sequence}",
            lambda: self._store.commit(owner, commit),
        )

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        return await self._link.call("pass over", lambda: self._store.pass_over(owner, key, number, count, now))

    async def take_over(self, owner: Owner, key: SessionKey, number: Number, mark: Mark) -> bool:
        return await self._link.call(
            f"take over {number.stream}:{number.sequence}", lambda: self._store.take_over(owner, key, number, mark)
        )

    async def strike(self, owner: Owner, key: SessionKey, numbers: Sequence[Number]) -> None:
        await self._link.call("strike", lambda: self._store.strike(owner, key, numbers))

    async def backlog(self, shard: int) -> Backlog:
        return await self._link.call("backlog", lambda: self._store.backlog(shard))

    async def session_backlog(self, key: SessionKey) -> Backlog:
        return await self._link.call("backlog", lambda: self._store.session_backlog(key))

    async def redrive(self, key: SessionKey, message_id: str, number: Number) -> None:
        await self._link.call("redrive", lambda: self._store.redrive(key, message_id, number))

    async def purge(self, key: SessionKey, message_id: str) -> None:
        await self._link.call("purge", lambda: self._store.purge(key, message_id))

    async def record(self, key: SessionKey, message_id: str) -> Record | None:
        return await self._link.call(f"record {message_id}", lambda: self._store.record(key, message_id))

    async def waiting(self, key: SessionKey, message_id: str) -> Entry | None:
        return await self._link.call(f"waiting {message_id}", lambda: self._store.waiting(key, message_id))

    async def control(self, key: SessionKey, control: Control) -> VerbAnswer.ValueType:
        return await self._link.call(
            f"{Verb.Name(control.verb)} {control.message_id}", lambda: self._store.control(key, control)
        )

    async def verbs(self, key: SessionKey) -> Verbs:
        return await self._link.call(f"verbs {key}", lambda: self._store.verbs(key))

    async def settle_promise(self, key: SessionKey, settlement: Settlement) -> SettlementAnswer.ValueType:
        return await self._link.call(
            f"settle {settlement.promise_id}", lambda: self._store.settle_promise(key, settlement)
        )

    async def promise(self, key: SessionKey, promise_id: str) -> Promise | None:
        return await self._link.call(f"promise {promise_id}", lambda: self._store.promise(key, promise_id))

    async def promises(
        self, prefix: str, after: tuple[int, str, str] | None, limit: int, *, settled: bool = False
    ) -> Sequence[tuple[int, SessionKey, Promise]]:
        return await self._link.call("promises", lambda: self._store.promises(prefix, after, limit, settled=settled))

    async def messages(
        self, shard: int, prefix: str, after: tuple[str, str] | None, limit: int
    ) -> Sequence[tuple[SessionKey, Entry, Fate.ValueType]]:
        return await self._link.call("messages", lambda: self._store.messages(shard, prefix, after, limit))

    async def history(self, key: SessionKey, before: int | None, limit: int) -> Sequence[tuple[int, bytes]]:
        return await self._link.call("history", lambda: self._store.history(key, before, limit))

    async def summary(self, key: SessionKey) -> SessionSummary | None:
        return await self._link.call("summary", lambda: self._store.summary(key))

    async def summaries(
        self, prefix: str, after: tuple[int, str] | None, limit: int
    ) -> Sequence[tuple[int, SessionSummary]]:
        return await self._link.call("summaries", lambda: self._store.summaries(prefix, after, limit))

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        await self._link.call("delete", lambda: self._store.delete(owner, key, cancelled, now))

    async def forget(self, now: float) -> None:
        await self._link.call("forget", lambda: self._store.forget(now))


class Server:
    """The broker's server: mailboxes that outlive the processes, and give back what a lost consumer had unacked."""

    def __init__(self, broker: MemoryBroker, dice: random.Random) -> None:
        self.broker, self._dice = broker, dice
        self._channels: dict[str, list[Channel]] = {}
        self._probed: dict[SessionKey, float] = {}

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int) -> "Channel":
        """A consumer. One of a mailbox is active; the next one is when that is gone."""

        def deliver(delivery: Delivery) -> None:
            delivery.channel = channel.opened
            envelope = decode(delivery.body)
            if envelope.kind == ENVELOPE_KIND_PROBE:
                self._probed[SessionKey.of(envelope.target)] = delivery.published
            handler(delivery)

        channel = Channel(self, queue, lambda: self.broker.consume(queue, deliver, prefetch))
        await self.open(channel)
        return channel

    async def open(self, channel: "Channel") -> None:
        """Deliver over it when its turn has come."""
        channels = self._channels.setdefault(channel.queue, [])
        if channel not in channels:
            channels.append(channel)
        await self._activate(channel.queue)

    async def close(self, channel: "Channel") -> None:
        """What is unacked is ready again, as redelivered: where it was, at the end, or anywhere."""
        if channel not in self._channels[channel.queue]:
            return
        self._channels[channel.queue].remove(channel)
        if channel.consumer is not None:
            consumer, channel.consumer = channel.consumer, None
            await self._give_back(self.broker._queues[channel.queue], consumer)
            await self._activate(channel.queue)

    async def _activate(self, queue: str) -> None:
        waiting = self._channels[queue]
        if waiting and waiting[0].consumer is None:
            waiting[0].opened += 1
            waiting[0].consumer = await waiting[0].subscribe()

    async def _give_back(self, box: Queue, consumer: Subscription) -> None:
        before = box.ready
        await consumer.close()
        returned = [box._ready.popleft() for _ in range(box.ready - before)]
        match self._dice.randrange(4):
            case 0:
                box._ready.extendleft(reversed(returned))
            case 1 | 2:
                box._ready.extend(returned)
            case _:
                for message in returned:
                    box._ready.insert(self._dice.randint(0, box.ready), message)

    def holds(self, key: SessionKey, number: Number) -> bool:
        """Whether anything with this number is in a mailbox, unacked included, and was there before the session's last
        probe that came back, if any did."""
        probed = self._probed.get(key, float("inf"))
        return any(self._number(message.body) == number and message.published <= probed for message in self._messages())

    @property
    def empty(self) -> bool:
        return not self._messages()

    def _messages(self) -> list[Stored]:
        return [
            message
            for box in self.broker._queues.values()
            for message in [*box._ready, *(held for consumer in box._consumers for held in consumer.unacked.values())]
        ]

    @staticmethod
    def _number(body: bytes) -> Number:
        number = decode(body).number
        return Number(number.stream, number.sequence)


class Channel:
    """A Subscription, as its worker has it: the server may have closed it long before."""

    def __init__(self, server: Server, queue: str, subscribe: Callable[[], Awaitable[Subscription]]) -> None:
        self._server, self.queue, self.subscribe = server, queue, subscribe
        self._wanted = True
        self.consumer: Subscription | None = None
        self.opened = 0
        """How often: deliveries of before are void."""

    def __repr__(self) -> str:
        return f"channel of {self.queue}"

    @property
    def connected(self) -> bool:
        return self.consumer is not None

    async def limit(self, prefetch: int) -> None:
        if self.consumer is not None:
            await self.consumer.limit(prefetch)

    async def cancel(self) -> None:
        self._wanted = False
        if self.consumer is not None:
            await self.consumer.cancel()
        else:
            await self._server.close(self)

    async def close(self) -> None:
        self._wanted = False
        await self._server.close(self)

    def abandon(self) -> None:
        """Its worker is dead; the server does not know."""
        self._wanted = False

    async def reopen(self, after: float) -> None:
        """The connection breaks, and the client's library subscribes again without a word."""
        await self._server.close(self)
        await asyncio.sleep(after)
        if self._wanted:
            await self._server.open(self)


class RemoteBroker:
    """A Broker behind a link."""

    def __init__(
        self, link: Link, server: Server, arrive: Callable[[Callable[[Delivery], None], Delivery], Any], prefetch: int
    ) -> None:
        """`arrive` calls a handler with a delivery, in the process that consumes."""
        self._link, self._server, self._arrive, self._prefetch = link, server, arrive, prefetch
        self.channels: list[Channel] = []

    async def declare(self, shards: int, pools: Sequence[str] = ()) -> None:
        await self._server.broker.declare(shards, pools)

    async def publish(self, envelope: Envelope, pool: str = "") -> None:
        sent = Envelope()
        sent.CopyFrom(envelope)
        await self._link.call(
            f"publish {sent.id} {sent.number.stream}:{sent.number.sequence}",
            lambda: self._server.broker.publish(sent, pool),
        )

    async def publish_many(self, envelopes: Sequence[Envelope], pool: str = "") -> Sequence[TroupeError | None]:
        """Each goes its own way, and may come to nothing, as over any connection."""

        async def outcome(envelope: Envelope) -> TroupeError | None:
            try:
                await self.publish(envelope, pool)
            except TroupeError as error:
                return error
            return None

        return [await outcome(envelope) for envelope in envelopes]

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        opened: list[Channel] = []

        async def open_channel() -> Channel:
            opened.append(
                await self._server.consume(
                    queue, lambda delivery: self._arrive(handler, delivery), min(prefetch, self._prefetch)
                )
            )
            return opened[0]

        try:
            channel = await self._link.call("consume", open_channel, late=False)
        except BaseException:
            # A client that does not get its channel closes it.
            for channel in opened:
                await channel.close()
            raise
        self.channels.append(channel)
        return channel

    async def defer(self, delivery: Delivery, delay: float) -> None:
        await self._link.call("defer", lambda: self._server.broker.defer(delivery, delay))

    async def dead_letter(self, letter: DeadLetter) -> None:
        await self._link.call("dead letter", lambda: self._server.broker.dead_letter(letter))

    def dead_letters(self, pool: str = AGENTS) -> AbstractAsyncContextManager[AsyncIterator[HeldLetter]]:
        return self._server.broker.dead_letters(pool)

    async def depth(self, queue: str) -> Depth:
        return await self._server.broker.depth(queue)
