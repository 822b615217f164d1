"""An actor that adds up what its session is sent, many numbers in one commit."""

from collections.abc import Sequence

from msgspec import Struct

from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.batch import BatchContext, BatchedMessage
from troupe.v1.envelope_pb2 import Content


class Sum(Struct):
    """What a session keeps."""

    total: int = 0
    messages: int = 0
    turns: int = 0


class Counter:
    """Replies with the sum so far; to `?` also with how many turns that took."""

    state_type = Sum

    async def receive(self, context: ActorContext, message: Content) -> None:
        context.state.turns += 1
        context.reply(taken(context.state, message.text))

    async def receive_batch(self, context: BatchContext, messages: Sequence[BatchedMessage]) -> None:
        context.state.turns += 1
        for message in messages:
            message.reply(taken(context.state, message.text))


def taken(kept: Sum, text: str) -> str:
    """Add one message to the sum, and what to answer."""
    if text == "?":
        return f"{kept.total} from {kept.messages} messages in {kept.turns} turns"
    kept.total += int(text)
    kept.messages += 1
    return str(kept.total)
