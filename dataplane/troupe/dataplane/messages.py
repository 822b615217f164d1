"""A client's message: which are taken, when one is due, and what travels. Pure."""

from collections.abc import Mapping
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import MAX_ID, check_size
from troupe.chassis import tracing
from troupe.chassis.errors import InvalidArgument, Unimplemented
from troupe.chassis.wire import seconds, timestamp
from troupe.v1 import agent_pb2, envelope_pb2
from troupe.v1.agent_pb2 import OnBusy, SendRequest
from troupe.v1.envelope_pb2 import Envelope

EXPIRES: Final = 24 * 3600.0
"""Seconds that a message is good for unless its sender sets less."""
AHEAD: Final = 366 * 24 * 3600.0
"""Seconds from now at which a message may be due, at most."""
MAX_ATTRIBUTES: Final = 16
MAX_ATTRIBUTE_KEY: Final = 63
MAX_ATTRIBUTE_VALUE: Final = 255


def check(message_id: str, request: SendRequest, now: float, *, awaited: bool) -> None:
    """Raise InvalidArgument and Unimplemented for what is not sent. `awaited`: the caller is told of its fate."""
    if len(message_id.encode()) > MAX_ID:
        raise InvalidArgument("BAD_MESSAGE_ID", f"message_id: more than {MAX_ID} bytes")
    if request.content.WhichOneof("body") is None:
        raise InvalidArgument("NO_CONTENT", "content: a message says something; set text or data")
    check_size(request.content)
    if request.HasField("expires") and not 0.001 <= seconds(request.expires) <= EXPIRES:
        raise InvalidArgument("BAD_EXPIRES", "expires: must lie between 1 ms and 24 h")
    _check_due(request, now)
    _check_on_busy(request, awaited)
    check_attributes("attributes", request.attributes)


def check_attributes(field: str, attributes: Mapping[str, str]) -> None:
    """Raise InvalidArgument for what no message can have."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidArgument("BAD_ATTRIBUTES", f"{field}: at most {MAX_ATTRIBUTES} pairs, got {len(attributes)}")
    for key, value in attributes.items():
        if not 1 <= len(key.encode()) <= MAX_ATTRIBUTE_KEY:
            raise InvalidArgument("BAD_ATTRIBUTES", f"{field}: a key has 1 to {MAX_ATTRIBUTE_KEY} bytes, not {key!r}")
        if len(value.encode()) > MAX_ATTRIBUTE_VALUE:
            raise InvalidArgument(
                "BAD_ATTRIBUTES", f"{field}: the value of {key!r} has more than {MAX_ATTRIBUTE_VALUE} bytes"
            )


def due(request: SendRequest, now: float) -> float:
    """When it takes its place in its session, seconds since the epoch; 0.0: no time was named. Whether that is over the
    store says, whose clock may be another than `now`."""
    if request.HasField("deliver_after"):
        return now + seconds(request.deliver_after)
    return max(seconds(request.deliver_at), 1.0) if request.HasField("deliver_at") else 0.0


def envelope(
    key: SessionKey, message_id: str, request: SendRequest, now: float, generation: int, carrier: tracing.Carrier
) -> Envelope:
    """What travels, without its number. Of a scheduled message time counts from when it is due."""
    at = due(request, now)
    sent, lasts = max(at, now), seconds(request.expires) if request.HasField("expires") else EXPIRES
    return Envelope(
        id=message_id,
        target=key.ref(),
        kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
        content=request.content,
        first_sent=timestamp(sent),
        expires=timestamp(sent + lasts),
        generation=generation,
        traceparent=carrier.traceparent,
        tracestate=carrier.tracestate,
        due=timestamp(at) if at else None,
        reject_when_busy=request.on_busy == agent_pb2.ON_BUSY_REJECT,
        attributes=request.attributes,
    )


def _check_due(request: SendRequest, now: float) -> None:
    if request.HasField("deliver_after"):
        if request.HasField("deliver_at"):
            raise InvalidArgument("BAD_DUE", "deliver_after, deliver_at: a message has one time; leave one of them out")
        if not 0 <= seconds(request.deliver_after) <= AHEAD:
            raise InvalidArgument("BAD_DUE", "deliver_after: must lie between 0 and 366 days")
    elif request.HasField("deliver_at") and seconds(request.deliver_at) > now + AHEAD:
        raise InvalidArgument("BAD_DUE", "deliver_at: must not lie more than 366 days ahead")


def _check_on_busy(request: SendRequest, awaited: bool) -> None:
    match request.on_busy:
        case agent_pb2.ON_BUSY_UNSPECIFIED | agent_pb2.ON_BUSY_ENQUEUE:
            return
        case agent_pb2.ON_BUSY_REJECT:
            if not (awaited or request.HasField("deliver_after") or request.HasField("deliver_at")):
                raise InvalidArgument(
                    "REJECT_UNHEARD", "on_busy: with REJECT somebody must hear of it; set wait, or a time to deliver"
                )
        case other:
            name = OnBusy.Name(other) if other in OnBusy.values() else str(other)
            raise Unimplemented(
                "NOT_BUILT", f"on_busy: {name.removeprefix('ON_BUSY_')} is not built yet; ENQUEUE and REJECT are"
            )
