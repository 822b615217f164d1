"""One message and the events of its turn, across a break of the stream."""

import contextlib
from collections.abc import AsyncGenerator

from troupe.chassis.errors import ResourceExhausted, TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.cli.clients import Gateway
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import EventPosition, SendRequest
from troupe.v1.envelope_pb2 import Content, SessionRef

RECONNECT_WITHIN = 30.0
"""Seconds that a broken conversation waits for a worker to come back: a restart takes a few."""

LAST = ("completed", "failed")


def message(session: SessionRef, text: str, message_id: str = "") -> SendRequest:
    """A message with an id of its own: what makes it safe to send it again."""
    return SendRequest(session=session, message_id=message_id or uuid7(), content=Content(text=text))


async def converse(gateway: Gateway, request: SendRequest) -> AsyncGenerator[turn_pb2.Event, None]:
    """The turn's events up to `completed` or `failed`, each once. A stream that breaks after its first event is taken
    up again at its position; when that one gives nothing either, Unavailable says how to ask for the answer later."""
    position: EventPosition | None = None
    while True:
        progressed = False
        try:
            async with contextlib.aclosing(gateway.converse(request, position)) as events:
                async for event in events:
                    progressed = True
                    position = EventPosition(epoch=event.epoch, attempt=event.attempt, sequence=event.sequence)
                    yield event
                    if event.WhichOneof("kind") in LAST:
                        return
        except (Unavailable, ResourceExhausted) as error:
            if position is None or error.metadata.get("source") == "turn":
                raise
            if not progressed:
                raise _lost(request, error) from error
        else:
            if not progressed:
                raise _lost(request, None)
        try:
            await gateway.connected(RECONNECT_WITHIN)
        except Unavailable as error:
            raise _lost(request, error) from error


def _lost(request: SendRequest, error: TroupeError | None) -> Unavailable:
    session = request.session
    name = "/".join(part for part in (session.namespace, session.agent, session.session, request.message_id) if part)
    why = f" ({error})" if error else ""
    return Unavailable(
        "STREAM_LOST", f"the conversation broke off{why}; the turn may go on: `troupe message wait {name}`"
    )
