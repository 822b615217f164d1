"""The span of a message's way to its queue. Its deliveries name it: whoever works on them goes on with its trace."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

from opentelemetry.trace import SpanKind, Status, StatusCode

from troupe.chassis import tracing
from troupe.chassis.errors import TroupeError
from troupe.v1.envelope_pb2 import ENVELOPE_KIND_MESSAGE, Envelope


def sending(envelope: Envelope, queue: str) -> AbstractContextManager[Envelope]:
    """A span `send QUEUE`, under the one that `envelope` names, until the block is left with the confirm or with what
    was raised; gives the envelope to send, which names the span. It is `envelope` itself, and there is no span, where
    none are recorded, and for what is no message of anybody."""
    if not tracing.recording() or envelope.kind != ENVELOPE_KIND_MESSAGE:
        return contextlib.nullcontext(envelope)
    return _sending(envelope, queue)


@contextlib.contextmanager
def _sending(envelope: Envelope, queue: str) -> Iterator[Envelope]:
    span = tracing.tracer().start_span(
        f"send {queue}",
        context=tracing.context(envelope.traceparent, envelope.tracestate),
        kind=SpanKind.PRODUCER,
        attributes={
            "messaging.system": "troupe",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            "messaging.message.id": envelope.id,
        },
    )
    sent = Envelope()
    sent.CopyFrom(envelope)
    sent.traceparent, sent.tracestate = tracing.carrier(span)
    try:
        yield sent
    except BaseException as error:
        span.set_attribute("error.type", error.reason if isinstance(error, TroupeError) else type(error).__name__)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()
