"""The same operations in a bare loop: `python -m bench.turns.bare BROKER STATE MESSAGES`.

What one writes by hand to lose nothing and do nothing twice, with pika's AsyncioConnection and one connection to Redis.
One script commits a delivery: it checks the owner of the shard and the number in the stream, keeps the id with the
reply, changes state and version, puts what is sent into an outbox, and notes where a sweep and a new owner are to look.
Then the delivery is acked, and the message published, `mandatory`; once that is confirmed, another script strikes it
from the outbox, and the delivery counts. What one turn of the loop asks of Redis is one pipeline. Nothing waits for the
commit before it: were one refused, so would be all behind it in its session.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import meter
import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import Basic
from redis.asyncio import Connection
from redis.asyncio.connection import parse_url

from bench.actors import runtime
from bench.turns.messages import OTHER, SHARDS, WORKED, sessions
from bench.turns.ours import fill
from troupe.broker import connect as brokers
from troupe.broker.addressing import SessionKey, mailbox
from troupe.broker.port import PREFETCH
from troupe.chassis.background import background
from troupe.chassis.wire import timestamp
from troupe.v1 import envelope_pb2, turn_pb2
from troupe.v1.agent_pb2 import MessageStatus
from troupe.v1.envelope_pb2 import Content, Envelope, Number, SessionRef

COMMIT = """\
-- KEYS: fence, session, records, records by age, sessions by age, outbox, sessions with an outbox
-- ARGV: owner, version, stream, sequence, id, time, status, state, session, target, what it sends
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'FENCED' end
local session = redis.call('HMGET', KEYS[2], 'version', 'stream:' .. ARGV[3])
if (session[1] or '0') ~= ARGV[2] then return 'VERSION' end
if tonumber(session[2] or 0) + 1 ~= tonumber(ARGV[4]) then return 'ORDER' end
if redis.call('HEXISTS', KEYS[3], ARGV[5]) == 1 then return 'COPY' end
local version = ARGV[2] + 1
redis.call('HSET', KEYS[3], ARGV[5], ARGV[7])
redis.call('ZADD', KEYS[4], ARGV[6], ARGV[5])
redis.call('ZADD', KEYS[5], ARGV[6], ARGV[9])
redis.call('HSET', KEYS[2], 'version', version, 'stream:' .. ARGV[3], ARGV[4], 'state', ARGV[8], 'sent:' .. ARGV[10],
  version)
redis.call('HSET', KEYS[6], version, ARGV[11])
redis.call('SADD', KEYS[7], ARGV[9])
return 'OK'
"""
STRIKE = """\
-- KEYS: fence, outbox, sessions with an outbox; ARGV: owner, version, session
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'FENCED' end
redis.call('HDEL', KEYS[2], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SREM', KEYS[3], ARGV[3]) end
return 'OK'
"""
OWNER = "1 bare"
PROPERTIES = pika.BasicProperties(delivery_mode=2)


@dataclass(slots=True)
class Session:
    """What the loop knows of one: `target` is whom it sends to."""

    path: str
    shard: int
    ref: SessionRef
    target: str
    target_ref: SessionRef
    mailbox: str
    version: int = 0


def known() -> dict[str, Session]:
    """By name."""

    def of(source: SessionKey, target: SessionKey) -> Session:
        place = mailbox(target.shard(SHARDS))
        return Session(source.path, source.shard(SHARDS), source.ref(), target.path, target.ref(), place)

    pairs = zip(sessions(WORKED), sessions(OTHER), strict=True)
    return {source.session: of(source, target) for source, target in pairs}


class Loop:
    def __init__(self, url: str, redis: Connection, commit: str, strike: str, messages: int) -> None:
        assert redis._writer is not None, "it is connected"
        self._redis, self._writer, self._commit, self._strike = redis, redis._writer, commit, strike
        self._loop = asyncio.get_running_loop()
        self._measured = meter.Consuming(messages)
        self.done = self._loop.create_future()
        self._sessions = known()
        self._asked: list[tuple[Any, ...]] = []
        self._owed: deque[Callable[[], None]] = deque()
        self._unconfirmed: dict[int, Callable[[], None]] = {}
        self._tag = 0
        self.connection = AsyncioConnection(pika.URLParameters(url), on_open_callback=self._opened)

    def _opened(self, connection: AsyncioConnection) -> None:
        connection.channel(on_open_callback=self._publishing)

    def _publishing(self, channel: Any) -> None:
        self._publisher = channel
        channel.confirm_delivery(self._confirmed)
        self.connection.channel(on_open_callback=self._consuming)

    def _consuming(self, channel: Any) -> None:
        self._consumer = channel
        channel.basic_qos(prefetch_count=PREFETCH)
        for shard in WORKED:
            channel.basic_consume(mailbox(shard), self._delivered)

    def _delivered(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        """The whole turn."""
        envelope, now = Envelope.FromString(body), time.time()
        session = self._sessions[envelope.target.session]
        version, base = session.version, f"bare:{session.shard}:"
        session.version += 1
        status = MessageStatus(
            session=session.ref,
            message_id=envelope.id,
            fate=turn_pb2.FATE_DONE,
            result=Content(),
            state_version=session.version,
            settled_at=timestamp(now),
        )
        sent = Envelope(
            id=f"{envelope.id}-sent",
            source=session.ref,
            target=session.target_ref,
            number=Number(stream=session.path, sequence=session.version),
            kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
            content=envelope.content,
            first_sent=timestamp(now),
        ).SerializeToString()
        path, fence, outbox, unsent = session.path, f"{base}fence", f"{base}outbox:{session.path}", f"{base}unsent"

        def committed() -> None:
            self._consumer.basic_ack(method.delivery_tag)
            self._tag += 1
            self._unconfirmed[self._tag] = strike
            self._publisher.basic_publish("", session.mailbox, sent, PROPERTIES, mandatory=True)

        def strike() -> None:
            self._ask(self._struck, self._strike, 3, fence, outbox, unsent, OWNER, session.version, path)

        keys = (fence, f"{base}{path}", f"{base}records:{path}", f"{base}settled:{path}", f"{base}old", outbox, unsent)
        number, state = envelope.number, b"%d" % session.version
        said = (number.stream, number.sequence, envelope.id, now, status.SerializeToString(), state)
        self._ask(committed, self._commit, len(keys), *keys, OWNER, version, *said, path, session.target, sent)

    def _struck(self) -> None:
        if self._measured.handled():
            self._measured.report()
            self.done.set_result(None)

    def _ask(self, then: Callable[[], None], *script: Any) -> None:
        if not self._asked:
            self._loop.call_soon(self._write)
        self._asked.append(("EVALSHA", *script))
        self._owed.append(then)

    def _write(self) -> None:
        """All that was asked in this turn of the loop."""
        asked, self._asked = self._asked, []
        for chunk in self._redis.pack_commands(asked):
            self._writer.write(chunk)

    async def answers(self) -> None:
        """Go on with what Redis has answered, in order, until cancelled."""
        while True:
            answer = await self._redis.read_response()
            if answer != b"OK":
                raise RuntimeError(f"a script was refused: {answer}")
            self._owed.popleft()()

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        assert isinstance(method, Basic.Ack), "the broker has it"
        tags = [method.delivery_tag]
        if method.multiple:
            tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag]
        for tag in tags:
            self._unconfirmed.pop(tag)()


async def main(broker_url: str, state_url: str, messages: int) -> None:
    async with brokers.connected(broker_url) as broker:
        await broker.declare(SHARDS)
        await fill(broker, messages)
    redis = Connection(**parse_url(state_url.partition("?")[0]))
    await redis.connect()  # type: ignore[no-untyped-call]

    async def ask(*command: Any) -> Any:
        await redis.send_command(*command)
        return await redis.read_response()

    for shard in WORKED:
        await ask("SET", f"bare:{shard}:fence", OWNER)
    commit, strike = [(await ask("SCRIPT", "LOAD", body)).decode() for body in (COMMIT, STRIKE)]
    loop = Loop(broker_url, redis, commit, strike, messages)
    async with background() as tasks:
        tasks.create_task(loop.answers())
        await loop.done
    await redis.disconnect()
    loop.connection.close()


if __name__ == "__main__":
    runtime.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
