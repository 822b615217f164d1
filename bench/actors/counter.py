"""The actors that are measured: the state is how many messages there were, and they answer with that."""

from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.tools.tool import tool
from troupe.v1.envelope_pb2 import Content


class Counter:
    async def receive(self, context: ActorContext, message: Content) -> None:
        count = int(context.state or b"0") + 1
        context.state = b"%d" % count
        context.reply(str(count))


class CounterWithTool:
    """The same, with one recorded tool call before."""

    async def receive(self, context: ActorContext, message: Content) -> None:
        await context.call_tool("look-up")
        await Counter().receive(context, message)


@tool(idempotent=True)
async def look_up() -> str:
    """Look something up, at once."""
    return "found"
