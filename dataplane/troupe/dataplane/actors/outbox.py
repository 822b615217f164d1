"""What a session's turns send to other sessions: numbered, committed with the turn, then published until it is
confirmed."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis import fault_points
from troupe.chassis.errors import TroupeError
from troupe.chassis.tracing import Carrier
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.behaviour import Send
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.session import Loaded, Outgoing, Owner
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Envelope

EXPIRES: Final = 24 * 3600.0
"""Seconds that a message of an actor is good for."""
FORGET_STREAM: Final = 23 * 3600.0
"""Seconds of silence after which a stream is not gone on with: receivers forget it after 24 h."""
RETRY: Final = (0.1, 5.0)
"""Seconds between two tries to publish what was refused: at first, and at most."""


def outgoing(
    source: SessionKey,
    cause: Envelope,
    sends: Sequence[Send],
    loaded: Loaded,
    *,
    generation: int,
    carrier: Carrier,
    now: float,
    new_stream: Callable[[], str],
) -> list[Outgoing]:
    """What the turn of `cause` sent, as messages: each with the next number of this session's stream to its target, and
    with an id that is the same however often the turn is run. Pure."""
    messages: list[Outgoing] = []
    last: dict[str, Number] = {}
    for index, send in enumerate(sends):
        target = send.target.path
        sent = loaded.sent.get(target)
        if target in last:
            before: Number | None = last[target]
        else:
            before = sent.number if sent and now - sent.at <= FORGET_STREAM else None
        number = last[target] = Number(before.stream, before.sequence + 1) if before else Number(new_stream(), 1)
        envelope = Envelope(
            id=message_id(source, cause.id, index),
            source=source.ref(),
            target=send.target.ref(),
            number=envelope_pb2.Number(stream=number.stream, sequence=number.sequence),
            kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
            content=send.content,
            first_sent=timestamp(now),
            expires=timestamp(now + EXPIRES),
            generation=generation,
            correlation_id=cause.correlation_id or cause.id,
            traceparent=carrier.traceparent,
            tracestate=carrier.tracestate,
        )
        messages.append(Outgoing(target, number, envelope.SerializeToString()))
    return messages


def message_id(source: SessionKey, cause: str, index: int) -> str:
    """The id of the message that the turn of `cause` sent at this place."""
    return hashlib.sha256(f"{source.path}\n{index}\n{cause}".encode()).hexdigest()[:32]


async def flush(
    world: World, owner: Owner, memory: SessionMemory, key: SessionKey, goes_on: Callable[[], bool]
) -> None:
    """Publish what stands in the outbox, and strike what is confirmed, until nothing is left or it no longer `goes_on`.
    Raises Fenced.

    Of each stream one message is on its way at a time: were a later one confirmed and this one not, its receiver could
    give this one up as lost while it stands here. What the broker refuses holds up this session's messages and no
    other's."""
    delay, longest = RETRY
    while memory.outbox and goes_on():
        heads: dict[str, Outgoing] = {}
        for message in memory.outbox.values():
            heads.setdefault(message.number.stream, message)
        sending = list(heads.values())
        refusals = await _publish(world, sending)
        fault_points.reach("outbox.published")
        confirmed = [message.number for message, error in zip(sending, refusals, strict=True) if error is None]
        if confirmed:
            await world.persist("outbox", lambda numbers=confirmed: world.store.strike(owner, key, numbers))  # type: ignore[misc]
            memory.strike(confirmed)
            metrics.SENT.inc(len(confirmed))
        error = next((refusal for refusal in refusals if refusal is not None), None)
        outage = world.outages["cannot send, trying again", ""]
        if error is None:
            outage.over()
            delay = RETRY[0]
        else:
            outage.failed(error, session=str(key))
            await world.clock.sleep(delay)
            delay = min(longest, delay * 2)


async def _publish(world: World, messages: Sequence[Outgoing]) -> Sequence[TroupeError | None]:
    try:
        return await world.broker.publish_many([Envelope.FromString(message.envelope) for message in messages])
    except TroupeError as error:
        return [error] * len(messages)
