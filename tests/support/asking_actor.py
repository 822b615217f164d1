"""An Actor for workers in tests that asks for values from outside."""

import asyncio
from dataclasses import dataclass
from datetime import date
from typing import Any

from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.tools.tool import tool
from troupe.v1.envelope_pb2 import Content

TOKENS: list[str] = []
"""Of all promises, as they were made."""
OPEN = asyncio.Event()
"""What `work` waits for."""


DONE: list[str] = []
"""What the tools did."""


@tool(compensation="leave")
async def book(room: str) -> str:
    """Book a room, unless it is broken."""
    if room == "broken":
        raise LookupError("the room is broken")
    DONE.append(f"booked {room}")
    return room


@tool(idempotent=True)
async def leave(arguments: dict[str, Any], result: str) -> str:
    """Take that back."""
    DONE.append(f"left {result}")
    return "left"


@dataclass
class Answer:
    """What `typed` asks for."""

    ok: bool
    note: str = ""


class Asker:
    """Replies with the value that it was given. The message's first word says what it asks for."""

    async def receive(self, context: ActorContext, message: Content) -> None:
        kind, _, rest = message.text.partition(" ")
        match kind:
            case "ask":
                promise = await context.promise("answer", approvers=["ann"], expires=float(rest) if rest else None)
            case "typed":
                promise = await context.promise("answer", Answer)
            case "number":
                promise = await context.promise("answer", int)
            case "day":
                promise = await context.promise("answer", date)
            case "take":
                for room in rest.split():
                    await context.call_tool("book", room=room)
                promise = await context.promise("answer")
            case "work":
                await OPEN.wait()
                context.reply("worked")
                return
            case _:
                context.reply(f"heard {message.text}")
                return
        TOKENS.append(promise.token)
        context.reply(_shown(await promise))


def _shown(value: Any) -> str:
    return value.text or value.data.value.decode() if isinstance(value, Content) else repr(value)
