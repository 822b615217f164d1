"""The same operations in a bare loop: `python -m bench.turns.bare BROKER STATE MESSAGES`.

pika's AsyncioConnection and one connection to Redis. A delivery's state is compared and set by a script; those of one
turn of the loop are one pipeline. Then its message is published, `mandatory` and confirmed, and the delivery acked.
"""

import asyncio
import sys
from typing import Any

import meter
import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from redis.asyncio import Connection
from redis.asyncio.connection import parse_url

from bench.turns.messages import OTHER, SESSIONS, SHARDS, WORKED
from bench.turns.ours import fill
from troupe.broker import connect as brokers
from troupe.broker.addressing import mailbox
from troupe.broker.port import PREFETCH
from troupe.chassis.background import background

CAS = """\
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if version ~= tonumber(ARGV[1]) then return -1 end
redis.call('HSET', KEYS[1], 'version', version + 1, 'state', ARGV[2])
return version + 1
"""
PROPERTIES = pika.BasicProperties(delivery_mode=2)


class Loop:
    def __init__(self, url: str, redis: Connection, script: str, messages: int) -> None:
        assert redis._writer is not None, "it is connected"
        self._redis, self._writer, self._script = redis, redis._writer, script
        self._loop = asyncio.get_running_loop()
        self._measured = meter.Consuming(messages)
        self.done = self._loop.create_future()
        self._versions = [0] * SESSIONS
        self._count = 0
        self._commits: list[tuple[int, bytes, tuple[Any, ...]]] = []
        self._written: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._unconfirmed: dict[int, None] = {}
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
        session = self._count % SESSIONS
        self._count += 1
        version = self._versions[session]
        self._versions[session] += 1
        command = ("EVALSHA", self._script, 1, f"bare:{session}", version, b"%d" % self._count)
        if not self._commits:
            self._loop.call_soon(self._commit)
        self._commits.append((method.delivery_tag, body, command))

    def _commit(self) -> None:
        """Write all that came in this turn of the loop."""
        commits, self._commits = self._commits, []
        for chunk in self._redis.pack_commands([command for *_, command in commits]):
            self._writer.write(chunk)
        for tag, body, _ in commits:
            self._written.put_nowait((tag, body))

    async def settle(self) -> None:
        """Publish and ack what is committed, in order, until cancelled."""
        while True:
            tag, body = await self._written.get()
            if await self._redis.read_response() < 0:
                raise RuntimeError("a state had another version")
            self._tag += 1
            self._unconfirmed[self._tag] = None
            shard = OTHER[self._tag % len(OTHER)]
            self._publisher.basic_publish("", mailbox(shard), body, PROPERTIES, mandatory=True)
            self._consumer.basic_ack(tag)

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        tags = [method.delivery_tag]
        if method.multiple:
            tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag]
        for tag in tags:
            del self._unconfirmed[tag]
            if self._measured.handled():
                self._measured.report()
                self.done.set_result(None)


async def main(broker_url: str, state_url: str, messages: int) -> None:
    async with brokers.connected(broker_url) as broker:
        await broker.declare(SHARDS)
        await fill(broker, messages)
    address = parse_url(state_url.partition("?")[0])
    redis = Connection(**address)
    await redis.connect()  # type: ignore[no-untyped-call]
    await redis.send_command("SCRIPT", "LOAD", CAS)
    script = (await redis.read_response()).decode()
    loop = Loop(broker_url, redis, script, messages)
    async with background() as tasks:
        tasks.create_task(loop.settle())
        await loop.done
    await redis.disconnect()
    loop.connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
