"""Store and broker as a process has them: behind a link."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fault.simulation.network import Link
from fault.simulation.server import Channel, Server

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.broker.port import AGENTS, PREFETCH, DeadLetter, Delivery, Depth, HeldLetter, Subscription
from troupe.chassis.errors import TroupeError
from troupe.dataplane.state.control import Control, Promise, Settlement
from troupe.dataplane.state.port import Begun, Claimed, Due, Placed, Resting, StateStore, TurnCommit
from troupe.dataplane.state.session import Attempt, Backlog, Entry, Loaded, Mark, Owner, Record, SessionSummary, Verbs
from troupe.v1.agent_pb2 import Verb, VerbAnswer
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.promise_pb2 import SettlementAnswer
from troupe.v1.turn_pb2 import Fate


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

    async def suspend(
        self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, runs: bool = False
    ) -> bool:
        return await self._link.call(
            f"suspend {entry.message_id} {entry.awaits}",
            lambda: self._store.suspend(owner, key, entry, envelope, runs=runs),
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

    async def resting(self, key: SessionKey, message_id: str) -> Resting | None:
        return await self._link.call(f"resting {message_id}", lambda: self._store.resting(key, message_id))

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
