"""Contents on their way into a turn and out of it."""

from dataclasses import dataclass, replace
from typing import Any, cast

from support.hosting import Scripted

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import MAX_PAYLOAD
from troupe.dataplane.actors.behaviour import Send, TurnContext, TurnResult
from troupe.dataplane.behaviours.whole import Whole
from troupe.dataplane.blobs.connect import connected
from troupe.dataplane.blobs.payloads import Payloads
from troupe.v1.envelope_pb2 import Content, Envelope

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
    turn = cast(Any, replace(_turn(), message=message))

    result = await Whole(Sender(), payloads).run(turn)

    large, small = result.sends
    assert result.reply.HasField("blob")
    assert small.content == Content(text="small")
    assert large.content == result.reply
    assert await payloads.inline("acme", large.content) == Content(text=text * 2)
    assert turn.message.content.HasField("blob")


def _turn() -> TurnContext:
    nothing: Any = None
    return TurnContext(
        key=KEY,
        message=Envelope(),
        attempt=0,
        state=b"",
        history=[],
        journal=nothing,
        events=nothing,
        ledger=nothing,
    )
