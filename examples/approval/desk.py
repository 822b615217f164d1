"""A desk that buys things once a person has said yes."""

import os
from datetime import timedelta
from pathlib import Path

from msgspec import Struct

from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.promises import PromiseExpired, PromiseRejected
from troupe.dataplane.tools.tool import tool
from troupe.v1.envelope_pb2 import Content

PATIENCE = timedelta(seconds=float(os.environ.get("DESK_PATIENCE", "3600")))
"""How long one question stands."""
QUESTIONS = 3


class Purchase(Struct):
    """What a session keeps."""

    item: str = ""
    booking: str = ""
    asked: int = 0


class Answer(Struct):
    """What the approver says."""

    yes: bool
    why: str = ""


@tool(compensation="release")
async def reserve(item: str) -> str:
    """Reserve an item. Each call reserves one more."""
    _write(f"reserved {item}")
    return f"booking of {item}"


@tool(idempotent=True)
async def release(arguments: dict[str, str], result: str) -> str:
    """Take a reservation back."""
    _write(f"released {arguments['item']}, {result}")
    return "released"


@tool(idempotent=True)
async def buy(item: str, booking: str) -> str:
    """Buy what was reserved."""
    _write(f"bought {item}, {booking}")
    return "bought"


class Desk:
    """A session is one purchase: a message says what to buy, and the answer comes when somebody has decided."""

    state_type = Purchase

    async def receive(self, context: ActorContext, message: Content) -> None:
        purchase: Purchase = context.state
        if context.reminder is None:
            purchase.item = message.text
            purchase.booking = await context.call_tool("reserve", item=purchase.item)
        purchase.asked += 1
        approval = await context.promise(f"approval-{purchase.asked}", Answer, expires=PATIENCE, approvers=["ann"])
        try:
            answer = await approval
        except PromiseExpired:
            await self._unanswered(context, purchase)
        except PromiseRejected as rejected:
            await self._refused(context, purchase, str(rejected))
        else:
            if answer.yes:
                await context.call_tool("buy", item=purchase.item, booking=purchase.booking)
                context.reply(f"bought {purchase.item}")
            else:
                await self._refused(context, purchase, answer.why)

    async def _unanswered(self, context: ActorContext, purchase: Purchase) -> None:
        if purchase.asked == QUESTIONS:
            await self._refused(context, purchase, f"nobody answered {QUESTIONS} times")
        else:
            context.remind("ask-again", after=PATIENCE)
            context.reply(f"nobody has answered yet; I ask again in {PATIENCE}")

    async def _refused(self, context: ActorContext, purchase: Purchase, why: str) -> None:
        await context.call_tool("release", arguments={"item": purchase.item}, result=purchase.booking)
        context.reply(f"not bought: {why}")


def _write(line: str) -> None:
    with Path("desk.log").open("a") as file:
        file.write(line + "\n")
