"""Contents on their way into a turn and out of it."""

from dataclasses import dataclass, replace

import pytest
from support.acting import acting, receiving
from support.attempts import Attempts, Suspended
from support.scripted_behaviour import Scripted

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import MAX_PAYLOAD
from troupe.dataplane.actors.behaviour import Send, TurnContext, TurnResult
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.whole import Whole
from troupe.dataplane.blobs.connect import connected
from troupe.dataplane.blobs.payloads import Payloads
from troupe.v1.envelope_pb2 import Content, Envelope
from troupe.v1.promise_pb2 import PROMISE_STATE_RESOLVED

KEY = SessionKey("acme", "shop", "relay", "one")


@dataclass
class Sender(Scripted):
    """A behaviour that sends and replies with what it was told, twice as long."""

    async def run(self, turn: TurnContext) -> TurnResult:
        text = turn.message.content.text * 2
        return TurnResult(Content(text=text), sends=[Send(KEY, Content(text=text)), Send(KEY, Content(text="small"))])


async def test_what_is_large_goes_in_whole_and_comes_out_by_reference() -> None:
    payloads = Payloads(connected("memory://actor-context"))
    text = "x" * MAX_PAYLOAD
    message = Envelope(id="m1", content=await payloads.detached("acme", Content(text=text)))
    turn = replace(_turn(), message=message)

    result = await Whole(Sender(), payloads).run(turn)

    large, small = result.sends
    assert result.reply.HasField("blob")
    assert small.content == Content(text="small")
    assert large.content == result.reply
    assert await payloads.inline("acme", large.content) == Content(text=text * 2)
    assert turn.message.content.HasField("blob")


async def test_a_promises_value_that_travelled_by_reference_is_whole_for_its_turn() -> None:
    payloads = Payloads(connected("memory://actor-context"))
    large = Content(text="x" * (MAX_PAYLOAD + 1))
    attempts, seen = Attempts(), list[Content]()

    async def receive(context: ActorContext) -> None:
        seen.append(await (await context.promise("picture")))

    whole = Whole(acting(receiving(receive), attempts), payloads)
    with pytest.raises(Suspended):
        await whole.run(attempts.begun(key=KEY))
    travelling = await payloads.detached("acme", large)
    attempts.promises["m1/picture"] = replace(
        attempts.promises["m1/picture"],
        state=PROMISE_STATE_RESOLVED,
        value=travelling.SerializeToString(),
    )
    await whole.run(attempts.begun(key=KEY))
    assert (travelling.HasField("blob"), seen) == (True, [large])


def _turn() -> TurnContext:
    return Attempts().begun(key=KEY)
