"""The way in for clients' messages: takes them, hands them over, and finds out what became of them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import check_size, digest
from troupe.broker.order import Number
from troupe.broker.port import Broker
from troupe.chassis import tracing
from troupe.chassis.clock import Clock
from troupe.chassis.errors import InvalidArgument, ResourceExhausted, TroupeError, Unimplemented
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import seconds, timestamp
from troupe.dataplane import metrics
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.settle import MESSAGE_ID_USED, cancelled_record, message_id_used
from troupe.dataplane.admission import Admission, Limits
from troupe.dataplane.following import Follower, Following, bare, end_of
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement, ShardOwner
from troupe.dataplane.sampling import Sampler
from troupe.dataplane.sending import Sender
from troupe.dataplane.state.port import Record, StateStore
from troupe.v1 import agent_pb2, envelope_pb2, turn_pb2
from troupe.v1.agent_pb2 import EventPosition, GetMessageRequest, MessageRef, MessageStatus, SendRequest, VerbAnswer
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.turn_pb2 import Event

EXPIRES: Final = 24 * 3600.0
"""Seconds that a message is good for unless its sender sets less."""
MAX_WAIT: Final = 3600.0
"""Seconds that a call may wait for a fate."""
CONFIRM: Final = 30.0
"""Seconds that a message's confirm is waited for where its caller sets no deadline, and at most."""
MAX_NUDGES: Final = 256
"""Owners that are told of a CANCEL at once; it binds without."""

log = structlog.get_logger()


class Gateway:
    """One worker's. Make one with `opened`."""

    def __init__(
        self,
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
    ) -> None:
        self._store, self._host, self._clock, self._tasks = store, host, clock, tasks
        self._placement, self._peers, self.following = placement, peers, following
        self._sender, self._admission, self._sampler = sender, admission, sampler
        self._generation = generation
        self._nudges: set[asyncio.Task[None]] = set()

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
    ) -> AsyncIterator["Gateway"]:
        """`generation` is that of the running revision. On exit numbers of unknown outcome are given up."""
        admission = Admission(limits or Limits())
        sampler = Sampler(admission, broker, store, clock)
        following = Following(store, host.world.hub, host, placement, peers, clock)
        async with Sender.opened(broker, clock) as sender, asyncio.TaskGroup() as tasks:
            gateway = Gateway(
                store, host, clock, placement, peers, following, sender, admission, sampler, tasks, generation
            )
            sampling = tasks.create_task(sampler.run())
            try:
                yield gateway
            finally:
                sampling.cancel()
                for nudge in gateway._nudges:
                    nudge.cancel()

    async def ready(self) -> None:
        """Wait a little until there are mailboxes to publish to. Raises Unavailable when there are none."""
        await self._placement.ready()

    async def send(
        self,
        key: SessionKey,
        request: SendRequest,
        within: float = CONFIRM,
        numbered: Callable[[Number], None] = lambda _: None,
    ) -> tuple[str, Number]:
        """Hand the message over; its id and number once the broker has confirmed it. `numbered` hears the number just
        before the message is published.

        Raises InvalidArgument and Unimplemented for the request, ResourceExhausted where session or mailbox is full or
        the broker takes nothing (not sent), DeadlineExceeded where it is not confirmed `within` seconds: the outcome
        is unknown, and the same id may be sent again."""
        message_id = request.message_id or uuid7()
        _check(message_id, request)
        await self.ready()
        self._admit(key)
        envelope = self._envelope(key, message_id, request)
        self._admission.published(envelope.ByteSize())
        return message_id, await self._sender.send(key, envelope, min(within, CONFIRM), numbered)

    async def converse(
        self, key: SessionKey, request: SendRequest, after: EventPosition | None, within: float = CONFIRM
    ) -> AsyncGenerator[Event, None]:
        """Send, then the turn's events to the last one, beginning with `accepted`. Errors are those of `send`."""
        request.message_id = request.message_id or uuid7()
        await self.ready()
        with self.following.message(key, request.message_id, digest=digest(request.content)) as follower:
            message_id, number = await self.send(key, request, within, follower.sent)
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
            message_id, _ = await self.send(key, request, within, follower.sent)
            last = await _last(follower, wait)
        return await self._told(key, message_id, last, payload)

    async def status(
        self, key: SessionKey, message_id: str, wait: float = 0.0, *, relayed: bool = False
    ) -> MessageStatus:
        """Where the message stands; waits up to `wait` seconds until it is settled."""
        await self.ready()
        with self.following.message(key, message_id, relayed=relayed) as follower:
            status = await self._standing(key, message_id, relayed=relayed)
            if wait <= 0 or status.fate in FINAL:
                return status
            return await self._told(key, message_id, await _last(follower, wait))

    async def cancel(
        self, key: SessionKey, message_id: str, verb_id: str, *, relayed: bool = False
    ) -> VerbAnswer.ValueType:
        """Record a CANCEL, and tell the turn that it concerns, wherever it runs."""
        await self.ready()
        now = self._clock.now()
        entry = await self._store.waiting(key, message_id)
        record = cancelled_record(key, message_id, entry.digest if entry else b"", entry.attempts if entry else 0, now)
        answer = await self._store.cancel(key, message_id, verb_id, record, now)
        if answer in (agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING):
            self._host.cancel(key, message_id)
            if not relayed and (owner := self.following.owner(key)) is not None:
                self._nudge(owner, key, message_id, verb_id)
            settled = await self._store.record(key, message_id)
            if settled is not None and settled.fate == turn_pb2.FATE_CANCELLED:
                self.announce(key, settled)
        return answer

    async def would_cancel(self, key: SessionKey, message_id: str) -> VerbAnswer.ValueType:
        """What `cancel` would answer now."""
        status = await self._standing(key, message_id, relayed=True)
        if status.fate in FINAL:
            return agent_pb2.VERB_ANSWER_TOO_LATE
        known = await self._store.waiting(key, message_id)
        return agent_pb2.VERB_ANSWER_APPLIED if known else agent_pb2.VERB_ANSWER_PENDING

    def announce(self, key: SessionKey, cancelled: Record) -> None:
        """Tell those who follow a message here that it was cancelled without a turn."""
        event = end_of(key, cancelled, self._clock)
        event.failed.stored = False
        with self.following.hub.log(key, event.message_id) as message_log:
            message_log.append(event, digest=cancelled.digest)

    def _admit(self, key: SessionKey) -> None:
        actor = self._host.actor(key)
        shard = key.shard(self._placement.shard_count)
        try:
            self._admission.check(key, shard, None if actor is None else actor.backlog, self._clock.monotonic())
        except ResourceExhausted as error:
            metrics.REFUSED.labels(error.reason).inc()
            raise
        finally:
            if self._admission.wants:
                self._sampler.wake()

    def _nudge(self, owner: ShardOwner, key: SessionKey, message_id: str, verb_id: str) -> None:
        """The owner's turn would learn of the CANCEL with its next write; this is to stop it sooner."""
        if len(self._nudges) < MAX_NUDGES:
            nudge = self._tasks.create_task(self._tell(owner, key, message_id, verb_id))
            self._nudges.add(nudge)
            nudge.add_done_callback(self._nudges.discard)

    async def _tell(self, owner: ShardOwner, key: SessionKey, message_id: str, verb_id: str) -> None:
        try:
            await self._peers.cancel(owner, MessageRef(session=bare(key), message_id=message_id), verb_id)
        except TroupeError as error:
            log.info("owner not told of a cancel", worker=owner.worker_id, session=str(key), error=str(error))

    async def _standing(
        self, key: SessionKey, message_id: str, payload: bytes = b"", *, relayed: bool = False
    ) -> MessageStatus:
        record = await self._store.record(key, message_id)
        if record and payload and record.digest and payload != record.digest:
            raise message_id_used(message_id)
        if record and not record.redriven:
            return MessageStatus.FromString(record.status)
        owner = None if relayed else self.following.owner(key)
        if owner is not None and (told := await self._asked(owner, key, message_id)) is not None:
            return told
        status = MessageStatus(session=key.ref(), message_id=message_id, fate=turn_pb2.FATE_UNSEEN)
        actor = self._host.actor(key)
        if actor is not None and actor.turn is not None and actor.turn.message_id == message_id:
            status.fate, status.attempts = turn_pb2.FATE_RUNNING, actor.turn.attempt + 1
        elif entry := await self._store.waiting(key, message_id):
            status.fate, status.attempts = turn_pb2.FATE_WAITING, entry.attempts
        return status

    async def _asked(self, owner: ShardOwner, key: SessionKey, message_id: str) -> MessageStatus | None:
        """What the owner says; None where it does not answer."""
        try:
            return await self._peers.message(owner, GetMessageRequest(session=bare(key), message_id=message_id))
        except TroupeError as error:
            log.debug("owner not asked", worker=owner.worker_id, session=str(key), error=str(error))
            return None

    async def _told(self, key: SessionKey, message_id: str, last: Event | None, payload: bytes = b"") -> MessageStatus:
        """The status that follows from a message's last event: as it was stored, where that event does not say all.
        Raises AlreadyExists where it was for the sender of another payload than that with the digest `payload`."""
        if last is not None and last.HasField("completed") and not last.completed.stored:
            return _status(key, last)
        if last is not None and last.failed.error.reason == MESSAGE_ID_USED:
            raise message_id_used(message_id)
        return await self._standing(key, message_id, payload)

    def _envelope(self, key: SessionKey, message_id: str, request: SendRequest) -> Envelope:
        now = self._clock.now()
        carrier = tracing.carrier()
        lasts = seconds(request.expires) if request.HasField("expires") else EXPIRES
        return Envelope(
            id=message_id,
            target=key.ref(),
            kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
            content=request.content,
            first_sent=timestamp(now),
            expires=timestamp(now + lasts),
            generation=self._generation(),
            traceparent=carrier.traceparent,
            tracestate=carrier.tracestate,
        )


FINAL: Final = frozenset(
    {
        turn_pb2.FATE_DONE,
        turn_pb2.FATE_DEAD,
        turn_pb2.FATE_EXPIRED,
        turn_pb2.FATE_SKIPPED,
        turn_pb2.FATE_CANCELLED,
        turn_pb2.FATE_REJECTED,
    }
)


def _check(message_id: str, request: SendRequest) -> None:
    if len(message_id.encode()) > 128:
        raise InvalidArgument("BAD_MESSAGE_ID", "message_id: more than 128 bytes")
    if request.content.WhichOneof("body") is None:
        raise InvalidArgument("NO_CONTENT", "content: a message says something; set text or data")
    check_size(request.content)
    if request.HasField("expires") and not 0.001 <= seconds(request.expires) <= EXPIRES:
        raise InvalidArgument("BAD_EXPIRES", "expires: must lie between 1 ms and 24 h")
    for field in ("deliver_after", "deliver_at"):
        if request.HasField(field):
            raise Unimplemented("NOT_BUILT", f"{field}: scheduled messages are not built yet; send it when it is due")
    if request.on_busy not in (agent_pb2.ON_BUSY_UNSPECIFIED, agent_pb2.ON_BUSY_ENQUEUE):
        raise Unimplemented("NOT_BUILT", "on_busy: only ENQUEUE is built yet; leave it out")


async def _last(follower: Follower, wait: float) -> Event | None:
    """The message's last event, if it comes within `wait` seconds."""
    try:
        async with asyncio.timeout(wait), aclosing(follower.events()) as events:
            last = None
            async for event in events:
                last = event
            return last
    except TimeoutError:
        return None


def _status(key: SessionKey, last: Event) -> MessageStatus:
    done = last.completed
    return MessageStatus(
        session=key.ref(),
        message_id=last.message_id,
        fate=turn_pb2.FATE_DONE,
        result=done.result,
        usage=done.usage,
        ledger=done.ledger,
        state_version=done.state_version,
        attempts=last.attempt + 1,
        settled_at=last.time,
    )
