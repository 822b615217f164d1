"""Turns in one process: `python -m bench.turns.ours BROKER STATE MESSAGES`.

A host works on half of the shards: each turn counts in its session's state and sends one message to a session of the
other half, which nobody works on. A turn counts when it is committed, the last one when all that was sent is confirmed
and struck.
"""

import asyncio
import sys

import meter

from bench.actors import runtime
from bench.turns.messages import OTHER, SHARDS, WORKED, envelopes, sessions
from troupe.broker.addressing import mailbox
from troupe.broker.port import Broker
from troupe.chassis import logs
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.world import Ending
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.v1.envelope_pb2 import Content

CHUNK = 5_000
TARGETS = {source.session: target.session for source, target in zip(sessions(WORKED), sessions(OTHER), strict=True)}


class Relay:
    """Counts, and passes the message on."""

    async def receive(self, context: ActorContext, message: Content) -> None:
        context.state = b"%d" % (int(context.state or b"0") + 1)
        context.send("relay", TARGETS[context.session], message.text)


async def fill(broker: Broker, messages: int) -> None:
    waiting = list(envelopes(messages))
    for start in range(0, messages, CHUNK):
        for error in await broker.publish_many(waiting[start : start + CHUNK]):
            if error:
                raise error


async def main(broker_url: str, state_url: str, messages: int) -> None:
    measured, left, last = meter.Consuming(messages), iter(range(messages - 1)), asyncio.Event()

    def ended(ending: Ending) -> None:
        assert ending.latency is not None, "a turn did not come to its answer"
        if next(left, None) is None:
            last.set()
        else:
            measured.handled()

    async with runtime.opened(broker_url, state_url) as (broker, store):
        await broker.declare(SHARDS)
        await fill(broker, messages)
        async with runtime.hosting(broker, store, Relay, shards=SHARDS, held=WORKED, ended=ended):
            await last.wait()
            while metrics.SENT._value.get() < messages:  # noqa: ASYNC110 - what is waited for is in the runtime
                await asyncio.sleep(0.001)
            measured.handled()
            depths = [await broker.depth(mailbox(shard)) for shard in OTHER]
            assert sum(depth.messages for depth in depths) == messages
    measured.report()


if __name__ == "__main__":
    logs.configure("json", "warning", service="bench")
    runtime.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
