"""The way in for clients' messages: takes them, hands them over, and finds out what became of them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import digest
from troupe.broker.order import Number
from troupe.broker.port import Broker
from troupe.chassis import fault_points, tracing
from troupe.chassis.clock import Clock
from troupe.chassis.errors import InvalidArgument, ResourceExhausted
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import timestamp
from troupe.dataplane import messages, metrics
from troupe.dataplane.actors.endings import MESSAGE_ID_USED, message_id_used
from troupe.dataplane.actors.host import Host
from troupe.dataplane.admission import Admission, Limits, in_trouble
from troupe.dataplane.control import TurnControl
from troupe.dataplane.following import Following
from troupe.dataplane.nudging import Nudges
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement
from troupe.dataplane.restarting import Restarts
from troupe.dataplane.sampling import Sampler
from troupe.dataplane.sending import Sender
from troupe.dataplane.standing import FINAL, Standing
from troupe.dataplane.state.port import StateStore
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import EventPosition, MessageStatus, SendRequest, VerbAnswer
from troupe.v1.turn_pb2 import Event

MAX_WAIT: Final = 3600.0
"""Seconds that a call may wait for a fate."""
CONFIRM: Final = 30.0
"""Seconds that a message's confirm is waited for where its caller sets no deadline, and at most."""


class Gateway:
    """One worker's. Make one with `opened`."""

    def __init__(
        self,
        broker: Broker,
        store: StateStore,
        host: Host,
        clock: Clock,
        placement: Placement,
        peers: Peers,
        following: Following,
        sender: Sender,
        admission: Admission,
        sampler: Sampler,
        tasks: asyncio.TaskGroup,
        generation: Callable[[], int],
        trouble: Callable[[], str],
    ) -> None:
        self._host, self._clock, self._placement = host, clock, placement
        self._sender, self._admission, self._sampler = sender, admission, sampler
        self._generation, self._trouble = generation, trouble
        self._standing = Standing(store, host, following, peers)
        self.following = following
        self.nudges = Nudges(host, following, peers, tasks)
        restarts = Restarts(broker, store, clock)
        self.control = TurnControl(store, host, clock, placement, following, peers, self.nudges, restarts)

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(
        broker: Broker,
        store: StateStore,
        host: Host,
        clock: Clock,
        *,
        placement: Placement,
        peers: Peers,
        generation: Callable[[], int],
        limits: Limits | None = None,
        trouble: Callable[[], str] = lambda: "",
    ) -> AsyncIterator["Gateway"]:
        """`generation` is that of the running revision; `trouble` says what keeps this worker from working, empty where
        nothing does. On exit numbers of unknown outcome are given up."""
        admission = Admission(limits or Limits())
        sampler = Sampler(admission, broker, store, clock)
        following = Following(store, host.world.hub, host, placement, peers, clock)
        async with Sender.opened(broker, clock) as sender, asyncio.TaskGroup() as tasks:
            gateway = Gateway(
                broker,
                store,
                host,
                clock,
                placement,
                peers,
                following,
                sender,
                admission,
                sampler,
                tasks,
                generation,
                trouble,
            )
            sampling = tasks.create_task(sampler.run())
            try:
                yield gateway
            finally:
                sampling.cancel()
                gateway.nudges.close()

    async def ready(self) -> None:
        """Wait a little until there are mailboxes to publish to. Raises Unavailable when there are none."""
        await self._placement.ready()

    async def send(
        self,
        key: SessionKey,
        request: SendRequest,
        within: float = CONFIRM,
        numbered: Callable[[Number], None] = lambda _: None,
        *,
        awaited: bool = False,
    ) -> tuple[str, Number]:
        """Hand the message over; its id and number once the broker has confirmed it. `numbered` hears the number just
        before the message is published; `awaited`: the caller waits for its fate.

        Raises InvalidArgument and Unimplemented for the request, ResourceExhausted where session or mailbox is full or
        the broker takes nothing (not sent), DeadlineExceeded where it is not confirmed `within` seconds: the outcome
        is unknown, and the same id may be sent again."""
        message_id = request.message_id or uuid7()
        messages.check(message_id, request, self._clock.now(), awaited=awaited)
        await self.ready()
        self._admit(key)
        envelope = messages.envelope(key, message_id, request, self._clock.now(), self._generation(), tracing.carrier())
        self._admission.published(envelope.ByteSize())
        return message_id, await self._sender.send(key, envelope, min(within, CONFIRM), numbered)

    async def converse(
        self, key: SessionKey, request: SendRequest, after: EventPosition | None, within: float = CONFIRM
    ) -> AsyncGenerator[Event, None]:
        """Send, then the turn's events to the last one, beginning with `accepted`. Errors are those of `send`."""
        request.message_id = request.message_id or uuid7()
        await self.ready()
        with self.following.message(key, request.message_id, digest=digest(request.content)) as follower:
            fault_points.reach("call.followed")
            message_id, number = await self.send(key, request, within, follower.sent, awaited=True)
            accepted = Event(session=key.ref(), message_id=message_id, time=timestamp(self._clock.now()))
            accepted.accepted.number.stream, accepted.accepted.number.sequence = number.stream, number.sequence
            yield accepted
            async with aclosing(follower.events(after)) as events:
                async for event in events:
                    yield event

    async def follow(
        self,
        key: SessionKey,
        message_id: str,
        after: EventPosition | None,
        *,
        relayed: bool = False,
        number: Number | None = None,
        payload: bytes = b"",
    ) -> AsyncGenerator[Event, None]:
        """The message's events beyond `after`, to the last one; the stored end where it is settled. Another worker
        that asks (`relayed`) names the copy that its caller sent, and that copy's payload by its digest. Raises
        Unavailable where the store cannot be asked, Aborted where a relayed call does not belong here."""
        await self.ready()
        with self.following.message(key, message_id, relayed=relayed, digest=payload) as follower:
            async with aclosing(follower.events(after, number)) as events:
                async for event in events:
                    yield event

    async def send_and_wait(
        self, key: SessionKey, request: SendRequest, wait: float, within: float = CONFIRM
    ) -> MessageStatus:
        """Send, then the message's fate where it is settled within `wait` seconds, else where it stands. The answer
        to a copy with another payload is AlreadyExists."""
        if not 0 <= wait <= MAX_WAIT:
            raise InvalidArgument("BAD_WAIT", "wait: must lie between 0 and 1 h")
        request.message_id = request.message_id or uuid7()
        payload = digest(request.content)
        await self.ready()
        with self.following.message(key, request.message_id, digest=payload) as follower:
            fault_points.reach("call.followed")
            message_id, _ = await self.send(key, request, within, follower.sent, awaited=True)
            last = await follower.end(wait)
        return await self._told(key, message_id, last, payload)

    async def status(
        self, key: SessionKey, message_id: str, wait: float = 0.0, *, relayed: bool = False
    ) -> MessageStatus:
        """Where the message stands; waits up to `wait` seconds until it is settled."""
        await self.ready()
        with self.following.message(key, message_id, relayed=relayed) as follower:
            status = await self._standing.of(key, message_id, relayed=relayed)
            if wait <= 0 or status.fate in FINAL:
                return status
            return await self._told(key, message_id, await follower.end(wait))

    async def cancel(self, key: SessionKey, message_id: str, verb_id: str) -> VerbAnswer.ValueType:
        """Record a CANCEL, and tell the turn that it concerns, wherever it runs."""
        await self.ready()
        return await self.control.cancel(key, message_id, verb_id)

    def _admit(self, key: SessionKey) -> None:
        actor = self._host.actor(key)
        shard = key.shard(self._placement.shard_count)
        try:
            self._check_new(key, shard)
            self._admission.check(key, shard, None if actor is None else actor.backlog, self._clock.monotonic())
        except ResourceExhausted as error:
            metrics.REFUSED.labels(error.reason).inc()
            raise
        finally:
            if self._admission.wants:
                self._sampler.wake()

    def _check_new(self, key: SessionKey, shard: int) -> None:
        """A worker that does not get on takes no session that it has not seen. It does not ask the store, which may be
        what does not answer."""
        cause = self._trouble()
        if cause and self._placement.is_mine(shard) and not (self._host.actor(key) or self._sender.knows(key)):
            raise in_trouble(key, cause)

    async def _told(self, key: SessionKey, message_id: str, last: Event | None, payload: bytes = b"") -> MessageStatus:
        """The status that follows from a message's last event: as it was stored, where that event does not say all.
        Raises AlreadyExists where it was for the sender of another payload than that with the digest `payload`."""
        if last is not None and last.HasField("completed") and not last.completed.stored and not last.attempt:
            return _status(key, last)
        if last is not None and last.failed.error.reason == MESSAGE_ID_USED:
            raise message_id_used(message_id)
        return await self._standing.of(key, message_id, payload)


def _status(key: SessionKey, last: Event) -> MessageStatus:
    """Of a message that its first attempt ended. Of others the event does not say how many of them failed."""
    done = last.completed
    return MessageStatus(
        session=key.ref(),
        message_id=last.message_id,
        fate=turn_pb2.FATE_DONE,
        result=done.result,
        usage=done.usage,
        ledger=done.ledger,
        state_version=done.state_version,
        attempts=1,
        settled_at=last.time,
    )
