"""The way in for clients' messages: numbers them, publishes them, and finds out what became of them."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import check_size, digest
from troupe.broker.order import Number
from troupe.broker.port import Broker, MailboxFull
from troupe.chassis import tracing
from troupe.chassis.clock import Clock
from troupe.chassis.errors import InvalidArgument, NotFound, Unavailable, Unimplemented
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import seconds, timestamp
from troupe.dataplane.actors.host import Host, check_busy
from troupe.dataplane.actors.hub import Hub, MessageLog
from troupe.dataplane.actors.settle import MESSAGE_ID_USED, cancelled_record, message_id_used, stored
from troupe.dataplane.state.port import Record, StateStore
from troupe.v1 import agent_pb2, envelope_pb2, turn_pb2
from troupe.v1.agent_pb2 import EventPosition, MessageStatus, SendRequest, VerbAnswer
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.turn_pb2 import Completed, Event, Failed

EXPIRES: Final = 24 * 3600.0
"""Seconds that a message is good for unless its sender sets less."""
FORGET_STREAM: Final = 23 * 3600.0
"""Seconds of silence after which a stream is not gone on with: receivers forget it after 24 h."""
MAX_STREAMS: Final = 100_000
"""Sessions whose streams a gateway remembers; a session beyond it gets a new stream with its next message."""
MAX_WAIT: Final = 3600.0
"""Seconds that a call may wait for a fate."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Stream:
    id: str
    sequence: int
    used: float


class Gateway:
    """One worker's. Make one with `opened`."""

    def __init__(
        self,
        broker: Broker,
        store: StateStore,
        hub: Hub,
        host: Host,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        generation: Callable[[], int],
        ready: Callable[[], Awaitable[None]],
        max_session_inbox: int,
    ) -> None:
        self._broker, self._store, self._hub, self._host, self._clock = broker, store, hub, host, clock
        self._tasks, self._generation, self._max_inbox = tasks, generation, max_session_inbox
        self.ready = ready
        """Waits until there are mailboxes to publish to."""
        self._streams: OrderedDict[SessionKey, _Stream] = OrderedDict()
        self._fills: set[asyncio.Task[None]] = set()

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(
        broker: Broker,
        store: StateStore,
        hub: Hub,
        host: Host,
        clock: Clock,
        *,
        generation: Callable[[], int],
        ready: Callable[[], Awaitable[None]],
        max_session_inbox: int,
    ) -> AsyncIterator["Gateway"]:
        """`generation` is that of the running revision; `ready` waits until there are mailboxes to publish to. On
        exit, numbers of unknown outcome are given up: the streams end with this process, and receivers pass them
        over."""
        async with asyncio.TaskGroup() as tasks:
            gateway = Gateway(broker, store, hub, host, clock, tasks, generation, ready, max_session_inbox)
            try:
                yield gateway
            finally:
                for fill in gateway._fills:
                    fill.cancel()

    async def send(self, key: SessionKey, request: SendRequest) -> tuple[str, Number]:
        """Hand the message over; its id and number once the broker has confirmed it. Raises InvalidArgument and
        Unimplemented for the request, ResourceExhausted where session or mailbox is full (not sent), Unavailable
        where the outcome is unknown: the same id may be sent again."""
        message_id = request.message_id or uuid7()
        _check(message_id, request)
        await self.ready()
        check_busy(self._host.actor(key), self._max_inbox)
        envelope = self._envelope(key, message_id, request)
        stream = self._stream(key)
        stream.sequence += 1
        number = Number(stream.id, stream.sequence)
        envelope.number.stream, envelope.number.sequence = number.stream, number.sequence
        try:
            await self._broker.publish(envelope)
        except (MailboxFull, NotFound, InvalidArgument):
            # Not sent: the number is free, unless another was given out meanwhile.
            if stream.sequence == number.sequence:
                stream.sequence -= 1
            else:
                self._fill(envelope)
            raise
        except BaseException:
            self._fill(envelope)
            raise
        return message_id, number

    async def converse(
        self, key: SessionKey, request: SendRequest, after: EventPosition | None
    ) -> AsyncGenerator[Event, None]:
        """Send, then the turn's events to the last one, beginning with `accepted`. Errors are those of `send`."""
        request.message_id = request.message_id or uuid7()
        with self._hub.log(key, request.message_id) as message_log:
            message_id, number = await self.send(key, request)
            accepted = Event(session=key.ref(), message_id=message_id, time=timestamp(self._clock.now()))
            accepted.accepted.number.stream, accepted.accepted.number.sequence = number.stream, number.sequence
            yield accepted
            async for event in message_log.follow(after, number, digest(request.content)):
                yield event

    async def follow(
        self, key: SessionKey, message_id: str, after: EventPosition | None
    ) -> AsyncGenerator[Event, None]:
        """The message's events beyond `after`, to the last one; the stored end where it is settled."""
        with self._hub.log(key, message_id) as message_log:
            if record := await self._store.record(key, message_id):
                yield self._end(key, MessageStatus.FromString(record.status))
                return
            async for event in message_log.follow(after):
                yield event

    async def send_and_wait(self, key: SessionKey, request: SendRequest, wait: float) -> MessageStatus:
        """Send, then the message's fate where it is settled within `wait` seconds, else where it stands. The answer
        to a copy with another payload is AlreadyExists."""
        if not 0 <= wait <= MAX_WAIT:
            raise InvalidArgument("BAD_WAIT", "wait: must lie between 0 and 1 h")
        request.message_id = request.message_id or uuid7()
        with self._hub.log(key, request.message_id) as message_log:
            message_id, number = await self.send(key, request)
            payload = digest(request.content)
            last = await _last(message_log, wait, number, payload)
        return await self._told(key, message_id, last, payload)

    async def status(self, key: SessionKey, message_id: str, wait: float = 0.0) -> MessageStatus:
        """Where the message stands; waits up to `wait` seconds until it is settled."""
        with self._hub.log(key, message_id) as message_log:
            status = await self._standing(key, message_id)
            if wait <= 0 or status.fate in FINAL:
                return status
            return await self._told(key, message_id, await _last(message_log, wait))

    async def cancel(self, key: SessionKey, message_id: str, verb_id: str) -> VerbAnswer.ValueType:
        """Record a CANCEL, and tell the turn that it concerns."""
        now = self._clock.now()
        entry = await self._store.waiting(key, message_id)
        record = cancelled_record(key, message_id, entry.digest if entry else b"", entry.attempts if entry else 0, now)
        answer = await self._store.cancel(key, message_id, verb_id, record, now)
        if answer in (agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING):
            if (actor := self._host.actor(key)) is not None:
                actor.cancel(message_id)
            settled = await self._store.record(key, message_id)
            if settled is not None and settled.fate == turn_pb2.FATE_CANCELLED:
                self.announce(key, settled)
        return answer

    async def would_cancel(self, key: SessionKey, message_id: str) -> VerbAnswer.ValueType:
        """What `cancel` would answer now."""
        status = await self._standing(key, message_id)
        if status.fate in FINAL:
            return agent_pb2.VERB_ANSWER_TOO_LATE
        known = await self._store.waiting(key, message_id)
        return agent_pb2.VERB_ANSWER_APPLIED if known else agent_pb2.VERB_ANSWER_PENDING

    def announce(self, key: SessionKey, cancelled: Record) -> None:
        """Tell those who follow a message that was cancelled without a turn."""
        status = MessageStatus.FromString(cancelled.status)
        with self._hub.log(key, status.message_id) as message_log:
            event = self._end(key, status)
            event.failed.stored = False
            message_log.append(event, digest=cancelled.digest)

    def _end(self, key: SessionKey, status: MessageStatus) -> Event:
        """The last event of a message that is settled."""
        event = Event(session=key.ref(), message_id=status.message_id, time=timestamp(self._clock.now()))
        match stored(status):
            case Completed() as completed:
                event.completed.CopyFrom(completed)
            case Failed() as failed:
                event.failed.CopyFrom(failed)
        return event

    async def _standing(self, key: SessionKey, message_id: str, payload: bytes = b"") -> MessageStatus:
        if record := await self._store.record(key, message_id):
            if payload and record.digest and payload != record.digest:
                raise message_id_used(message_id)
            return MessageStatus.FromString(record.status)
        status = MessageStatus(session=key.ref(), message_id=message_id, fate=turn_pb2.FATE_UNSEEN)
        actor = self._host.actor(key)
        if actor is not None and actor.turn is not None and actor.turn.message_id == message_id:
            status.fate, status.attempts = turn_pb2.FATE_RUNNING, actor.turn.attempt + 1
        elif entry := await self._store.waiting(key, message_id):
            status.fate, status.attempts = turn_pb2.FATE_WAITING, entry.attempts
        return status

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

    def _stream(self, key: SessionKey) -> _Stream:
        now = self._clock.monotonic()
        stream = self._streams.get(key)
        if stream is None or now - stream.used > FORGET_STREAM:
            stream = self._streams[key] = _Stream(uuid7(), 0, now)
        stream.used = now
        self._streams.move_to_end(key)
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return stream

    def _fill(self, envelope: Envelope) -> None:
        """Nobody knows whether the message was sent: put a SKIP in its place, which does nothing if it was."""
        skip = Envelope(
            id=envelope.id,
            target=envelope.target,
            number=envelope.number,
            kind=envelope_pb2.ENVELOPE_KIND_SKIP,
            first_sent=envelope.first_sent,
        )
        task = self._tasks.create_task(self._publish(skip))
        self._fills.add(task)
        task.add_done_callback(self._fills.discard)

    async def _publish(self, skip: Envelope) -> None:
        delay = 0.1
        while True:
            try:
                await self._broker.publish(skip)
            except (Unavailable, MailboxFull, NotFound):
                await self._clock.sleep(delay)
                delay = min(5.0, delay * 2)
            else:
                return


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


async def _last(
    message_log: MessageLog, wait: float, number: Number | None = None, payload: bytes = b""
) -> Event | None:
    """The message's last event, if it comes within `wait` seconds."""
    try:
        async with asyncio.timeout(wait):
            last = None
            async for event in message_log.follow(None, number, payload):
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
