"""An Actor for workers in tests: it counts its messages, and does what their first word says."""

import asyncio

from troupe.chassis.errors import FailedPrecondition
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.v1.envelope_pb2 import Content

OPEN = asyncio.Event()
"""What `wait` waits for, and `not yet` fails before."""


class Counter:
    """Replies with how many messages its session has had; to data, with the same from back to front."""

    async def receive(self, context: ActorContext, message: Content) -> None:
        if message.HasField("data"):
            context.reply(message.data.value[::-1], message.data.content_type)
            return
        match message.text:
            case "wait":
                await OPEN.wait()
            case "not yet" if not OPEN.is_set():
                raise FailedPrecondition("NOT_YET", "this cannot succeed before OPEN is set")
            case text if text.startswith("wrong"):
                raise FailedPrecondition("WRONG", "this cannot succeed")
            case "bad state":
                context.state = "text"
                return
        count = int(context.state or b"0") + 1
        context.state = str(count).encode()
        context.reply(str(count))


class Newer:
    """Another behaviour for the same actor."""

    async def receive(self, context: ActorContext, message: Content) -> None:
        context.reply("newer")
