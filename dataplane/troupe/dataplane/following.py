"""Following messages and sessions wherever their turns run: here, or on the worker that owns the session.

What a turn shows on its way is shown as long as the owner can be heard, and may have holes where a session moves. How
a message ended is never missed: it stands in the state store, which is looked at whenever a source of events ends
without it, and again and again while there is none.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Self

import structlog

from troupe.broker.addressing import DEFAULT, SessionKey
from troupe.broker.order import Number
from troupe.chassis.clock import Clock
from troupe.chassis.errors import Aborted, ResourceExhausted, TroupeError, Unavailable
from troupe.chassis.wire import timestamp
from troupe.dataplane import metrics
from troupe.dataplane.actors.endings import refused, stored
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.hub import LAST, Hub
from troupe.dataplane.peers import Peers, Stream
from troupe.dataplane.placement import Placement, ShardOwner
from troupe.dataplane.state.control import Promise
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Record
from troupe.v1.agent_pb2 import EventPosition, MessageStatus, SubscribeRequest
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.turn_pb2 import AwaitedPromise, Completed, Event, Failed

PAUSE: Final = (0.1, 5.0)
"""Seconds between two looks for a message that nobody shows: at first, and at most."""
LOOK: Final = 60.0
"""The same where this worker holds the shard and hears of what becomes of it: unless it was settled where it waited, by
another gateway, whose word did not come through."""

log = structlog.get_logger()


class Following:
    """One worker's way to the events of all sessions."""

    def __init__(
        self, store: StateStore, hub: Hub, host: Host, placement: Placement, peers: Peers, clock: Clock
    ) -> None:
        self.store, self.hub, self.clock = store, hub, clock
        self._host, self._placement, self._peers = host, placement, peers
        self._streams: set[Stream] = set()
        self._sessions: dict[Stream, SessionKey] = {}
        """Streams that show all of a session."""

    def owner(self, key: SessionKey) -> ShardOwner | None:
        """The other worker that owns the session; None where this one does, or nobody is known to."""
        return self.owner_of(self.shard(key))

    def owner_of(self, shard: int) -> ShardOwner | None:
        """The same, by shard."""
        return None if self._placement.is_mine(shard) else self._placement.owner_of(shard)

    def held(self, shard: int) -> bool:
        """Whether this worker holds the shard: whatever becomes of its sessions is heard here."""
        return self._host.owner(shard) is not None

    def shard(self, key: SessionKey) -> int:
        """The session's shard. Raises Unavailable before the first placement."""
        return key.shard(self._placement.shard_count)

    def message(self, key: SessionKey, message_id: str, *, relayed: bool = False, digest: bytes = b"") -> "Follower":
        """Somebody follows the message while this is entered. `relayed`: another worker asks, and looks elsewhere by
        itself. `digest` is the payload that the follower sent; what is about another is not shown."""
        return Follower(self, key, message_id, relayed, digest)

    async def session(self, key: SessionKey, *, relayed: bool = False) -> AsyncGenerator[Event, None]:
        """The events of all messages of a session from now on. Where the session moves some may be missing, ends among
        them: what happens on the new owner before it is subscribed to there, and the rest of a turn that goes on at the
        old one under its mark. Raises ResourceExhausted where the caller is too slow, and Aborted, when `relayed`, once
        the session is not this worker's."""
        pause = _Pause()
        while True:
            owner = None if relayed else self.owner(key)
            if relayed and self.owner(key) is not None:
                raise not_owner(key)
            if owner is None:
                with self.hub.feed(key) as feed:
                    async for event in feed.follow():
                        yield event
                continue
            stream = self.subscribe(owner, SubscribeRequest(session=bare(key)))
            self._sessions[stream] = key
            try:
                async with aclosing(self.shown(stream)) as events:
                    async for event in events:
                        pause.reset()
                        yield event
            except ResourceExhausted:
                raise
            except TroupeError as error:
                log.debug("stream of a session broke", session=str(key), error=str(error))
            finally:
                del self._sessions[stream]
            if self.owner(key) == owner:
                await self.clock.sleep(pause.next())

    async def waits(self, key: SessionKey, message_id: str) -> Event | None:
        """What the message's turn waits for, for those who come when all that it showed is gone; None where it does
        not, or the session is not held here. Without a place among the events."""
        actor = self._host.actor(key)
        if not self.held(self.shard(key)) or (actor is not None and not actor.at_rest):
            return None
        entry = await self.store.waiting(key, message_id)
        if entry is None or not entry.suspended:
            return None
        event = _event(key, message_id, self.clock)
        event.suspended.SetInParent()
        for promise_id in entry.awaits:
            if (promise := await self.store.promise(key, promise_id)) is not None:
                event.suspended.promises.append(awaited(promise))
        return event

    def announce(self, key: SessionKey, settled: Record) -> None:
        """Tell those who follow a message here that it was settled where it waited, without a turn."""
        event = end_of(key, settled, self.clock)
        event.failed.stored = False
        with self.hub.log(key, event.message_id) as message_log:
            message_log.append(event, digest=settled.digest)

    def placed(self, changed: frozenset[int]) -> None:
        """There is a new placement: the owners of these shards are others, and processes may be gone."""
        count = self._placement.shard_count
        if changed:
            self.hub.stir(lambda key: key.shard(count) in changed)
        for stream in list(self._streams):
            key = self._sessions.get(stream)
            # One message is followed to its end, which may come at the old owner; the others come at the new one.
            if self._placement.is_gone(stream.owner) or (key is not None and self.owner(key) != stream.owner):
                stream.give_up()

    def subscribe(self, owner: ShardOwner, request: SubscribeRequest) -> Stream:
        """Begin to follow on another worker; to be read with `shown`, or closed."""
        return self._peers.subscribe(owner, request)

    async def shown(self, stream: Stream) -> AsyncGenerator[Event, None]:
        """The events of a stream, until it ends or its worker is gone. Raises TroupeError where it breaks."""
        self._streams.add(stream)
        metrics.RELAYED_STREAMS.inc()
        try:
            async with aclosing(stream.events()) as events:
                async for event in events:
                    yield event
        finally:
            metrics.RELAYED_STREAMS.dec()
            self._streams.discard(stream)


class Follower:
    """One caller's hold on a message, from before it is sent to its last event."""

    def __init__(self, following: Following, key: SessionKey, message_id: str, relayed: bool, digest: bytes) -> None:
        self._following, self._key, self._message_id = following, key, message_id
        self._relayed, self._digest = relayed, digest
        self._shard = following.shard(key)
        self._opened = following.hub.log(key, message_id)
        self._number: Number | None = None
        self._sent: Stream | None = None
        self._after: EventPosition | None = None
        self._stirred = False
        """What was to be heard here without a pause may be found elsewhere by now."""
        self._last: Event | None = None
        """The last event that has a place."""

    def __enter__(self) -> Self:
        self._log = self._opened.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.__exit__(None, None, None)
        if self._sent is not None:
            self._sent.close()

    def sent(self, number: Number) -> None:
        """The message is about to be published under this number: be there before it is."""
        self._number = number
        if (owner := self._owner()) is not None:
            self._sent = self._subscribe(owner)

    async def end(self, within: float) -> Event | None:
        """The message's last event, if it comes within so many seconds. For who sent the message."""
        clock = self._following.clock
        until = clock.monotonic() + within
        if self._sent is None and self._owner() is None and self._following.held(self._shard):
            # The turn runs here: nothing else is to be looked at on its way, unless it takes long.
            end = await self._log.end(self._number, self._digest, min(within, LOOK))
            if end is not None or clock.monotonic() >= until:
                return end
            self._stirred = True
        try:
            async with asyncio.timeout(until - clock.monotonic()), aclosing(self.events()) as events:
                last = None
                async for event in events:
                    last = event
                return last
        except TimeoutError:
            return None

    async def events(
        self, after: EventPosition | None = None, number: Number | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events beyond `after`, to the message's last one; that alone where it was settled before. `number` is
        the copy that another worker's caller sent. Raises Unavailable where the store cannot be asked at first, and
        Aborted, for a relayed call, where the session is another worker's and its turn does not run here either."""
        own = self._number is not None
        self._after, self._number = after, self._number or number
        pause, broken, ended = _Pause(), None, self._stirred
        late = not own and after is None
        while True:
            stirs = self._log.stirs
            # A turn that runs here is followed here, whoever owns the session by now.
            owner = None if self._log.running else self._owner()
            if (ended or (owner is None and not own)) and (end := await self._end(again=ended)) is not None:
                yield end
                return
            alarm = None
            if owner is not None and owner != broken:
                source, broken = self._elsewhere(owner), owner
            else:
                broken = None
                if late and (waits := await self._following.waits(self._key, self._message_id)) is not None:
                    yield waits
                late = False
                if (patience := self._patience(owner, pause)) is not None:
                    alarm = asyncio.get_running_loop().call_later(patience, self._log.stir)
                source = self._log.follow(self._position(), self._number, self._digest, stirs)
            try:
                async with aclosing(source) as events:
                    async for event in events:
                        pause.reset()
                        if (void := self._voided(event)) is not None:
                            yield void
                        if event.epoch:
                            self._last = event
                        yield event
                        if event.WhichOneof("kind") in LAST:
                            return
            finally:
                if alarm is not None:
                    alarm.cancel()
            ended = True

    def _position(self) -> EventPosition | None:
        last = self._last
        if last is None:
            return self._after
        return EventPosition(epoch=last.epoch, attempt=last.attempt, sequence=last.sequence)

    def _owner(self) -> ShardOwner | None:
        return None if self._relayed else self._following.owner_of(self._shard)

    def _patience(self, owner: ShardOwner | None, pause: "_Pause") -> float | None:
        """How long to wait for events of this worker before looking elsewhere; None: they will come, or stir."""
        if self._log.running:
            return None
        if self._relayed and self._following.owner_of(self._shard) is not None:
            raise not_owner(self._key)
        return LOOK if owner is None and self._following.held(self._shard) else pause.next()

    async def _elsewhere(self, owner: ShardOwner) -> AsyncGenerator[Event, None]:
        """What the owner shows; ends where its stream does, however that is."""
        stream, self._sent = self._sent, None
        if stream is not None and stream.owner != owner:
            stream.close()
            stream = None
        try:
            async with aclosing(self._following.shown(stream or self._subscribe(owner))) as events:
                async for event in events:
                    yield event
        except TroupeError as error:
            log.debug("stream of a message broke", session=str(self._key), message=self._message_id, error=str(error))

    def _subscribe(self, owner: ShardOwner) -> Stream:
        request = SubscribeRequest(session=bare(self._key), message_id=self._message_id, after=self._position())
        if self._number is not None:
            request.number.stream, request.number.sequence = self._number.stream, self._number.sequence
            request.digest = self._digest
        return self._following.subscribe(owner, request)

    async def _end(self, again: bool) -> Event | None:
        """The message's last event, where it is settled. When the store does not answer `again`, it will be asked
        another time."""
        try:
            record = await self._following.store.record(self._key, self._message_id)
        except Unavailable:
            if again:
                return None
            raise
        if record is None:
            return None
        if self._digest and record.digest and self._digest != record.digest:
            event = _event(self._key, self._message_id, self._following.clock)
            event.failed.CopyFrom(refused(self._message_id))
            return event
        return None if record.redriven else end_of(self._key, record, self._following.clock)

    def _voided(self, event: Event) -> Event | None:
        """The seal of an attempt that was shown and whose worker cannot seal it any more: another began since."""
        last = self._last
        if last is None or (event.epoch, event.attempt) <= (last.epoch, last.attempt):
            return None
        if last.HasField("sealed") or last.HasField("suspended"):
            return None
        if event.started.continues and event.attempt == last.attempt + 1:
            return None
        seal = _event(self._key, self._message_id, self._following.clock)
        seal.epoch, seal.attempt, seal.sequence = last.epoch, last.attempt, last.sequence + 1
        seal.sealed.error.CopyFrom(
            Unavailable("OWNER_CHANGED", "the session went to another worker, which starts the turn again").detail()
        )
        return seal


def end_of(key: SessionKey, record: Record, clock: Clock) -> Event:
    """The last event of a message that is settled."""
    status = MessageStatus.FromString(record.status)
    event = _event(key, status.message_id, clock)
    match stored(status):
        case Completed() as completed:
            event.completed.CopyFrom(completed)
        case Failed() as failed:
            event.failed.CopyFrom(failed)
    return event


def awaited(promise: Promise) -> AwaitedPromise:
    """The promise as those see it who follow its turn."""
    shown = AwaitedPromise(promise_id=promise.id, name=promise.name)
    if promise.expires:
        shown.expires.CopyFrom(timestamp(promise.expires))
    return shown


def not_owner(key: SessionKey) -> Aborted:
    """What a call that was relayed once is answered with where it does not belong."""
    return Aborted("NOT_OWNER", f"session {key} is another worker's; ask the one that owns it now")


def bare(key: SessionKey) -> SessionRef:
    """The session as a worker names it to another. The tenant is named where it is not the default one: a fleet that
    asks for no credentials has only that."""
    tenant = key.tenant if key.tenant != DEFAULT else ""
    return SessionRef(tenant=tenant, namespace=key.namespace, agent=key.agent, session=key.session)


def _event(key: SessionKey, message_id: str, clock: Clock) -> Event:
    return Event(session=key.ref(), message_id=message_id, time=timestamp(clock.now()))


@dataclass(slots=True)
class _Pause:
    """Grows with each look in vain."""

    _next: float = PAUSE[0]

    def next(self) -> float:
        now, self._next = self._next, min(PAUSE[1], self._next * 2)
        return now

    def reset(self) -> None:
        self._next = PAUSE[0]
