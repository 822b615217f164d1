"""One message and the events of its turn, across a break of the stream."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from troupe.chassis.errors import ResourceExhausted, TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.cli.clients import Gateway
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import EventPosition, SendRequest
from troupe.v1.envelope_pb2 import Content, SessionRef

RECONNECT_WITHIN = 30.0
"""Seconds that a broken conversation waits for a worker to come back: a restart takes a few."""
PAUSE = 0.2
"""Seconds before the next try, where the worker names none."""

LAST = ("completed", "failed")


def message(session: SessionRef, text: str, message_id: str = "") -> SendRequest:
    """A message with an id of its own: what makes it safe to send it again."""
    return SendRequest(session=session, message_id=message_id or uuid7(), content=Content(text=text))


async def converse(gateway: Gateway, request: SendRequest) -> AsyncGenerator[turn_pb2.Event, None]:
    """The turn's events up to `completed` or `failed`. A stream that breaks after its first event is taken up again
    where it broke, and a worker that asks to be called again is; both within RECONNECT_WITHIN. Then Unavailable says
    how to ask for the answer later. The events after a break follow those before it."""
    position: EventPosition | None = None
    deadline: float | None = None
    while True:
        broken: TroupeError | None = None
        try:
            async with contextlib.aclosing(gateway.converse(request, position)) as events:
                async for event in events:
                    deadline = None
                    position = EventPosition(epoch=event.epoch, attempt=event.attempt, sequence=event.sequence)
                    yield event
                    if event.WhichOneof("kind") in LAST:
                        return
        except (Unavailable, ResourceExhausted) as error:
            if error.metadata.get("source") == "turn" or (position is None and not _asks_again(error)):
                raise
            broken = error
        now = time.monotonic()
        deadline = deadline or now + RECONNECT_WITHIN
        pause = broken.retry_after if broken and broken.retry_after else PAUSE
        if now + pause > deadline:
            raise _lost(request, broken)
        await asyncio.sleep(pause)
        try:
            await gateway.connected(deadline - time.monotonic())
        except Unavailable as error:
            raise _lost(request, error) from error


def _asks_again(error: TroupeError) -> bool:
    """A worker that starts or stops says when to call again; where nothing answers, nobody says anything."""
    return isinstance(error, Unavailable) and error.retry_after is not None


def _lost(request: SendRequest, error: TroupeError | None) -> Unavailable:
    session = request.session
    name = "/".join(part for part in (session.namespace, session.agent, session.session, request.message_id) if part)
    why = f" ({error})" if error else ""
    return Unavailable(
        "STREAM_LOST", f"the conversation broke off{why}; the turn may go on: `troupe message wait {name}`"
    )
