"""What every broker promises of traces: a delivery names the span of its publish, where spans are recorded."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.brokers import QUEUE, Opened
from support.mailboxes import Receiver, message

from troupe.broker.addressing import task_queue
from troupe.broker.spans import sending
from troupe.chassis import tracing
from troupe.chassis.errors import Unavailable
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Envelope

TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SENDER}-01"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    memory = InMemorySpanExporter()
    tracing.configure("test", exporter=memory)
    yield memory
    tracing.shutdown()


async def test_a_delivery_names_the_span_of_its_publish(opened: Opened, exporter: InMemorySpanExporter) -> None:
    async with opened() as broker:
        await broker.declare(1, ["gpu"])
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        await broker.consume(task_queue("gpu"), receiver)
        envelope = message(1)
        envelope.traceparent, envelope.tracestate = TRACEPARENT, "vendor=1"

        await broker.publish(envelope)
        await receiver.received(1)
        await broker.publish_many([envelope, envelope], pool="gpu")
        await receiver.received(3)

        spans = _sent(exporter)
        queues = [QUEUE, task_queue("gpu"), task_queue("gpu")]
        assert [span.name for span in spans] == [f"send {queue}" for queue in queues]
        for span, queue, delivery in zip(spans, queues, receiver.deliveries, strict=True):
            assert span.context.trace_id == int(TRACE, 16)
            assert span.parent is not None
            assert span.parent.span_id == int(SENDER, 16)
            assert span.kind is SpanKind.PRODUCER
            assert span.attributes is not None
            assert span.attributes["messaging.destination.name"] == queue
            assert span.attributes["messaging.message.id"] == envelope.id
            delivered = Envelope.FromString(delivery.body)
            assert delivered.traceparent == f"00-{TRACE}-{span.context.span_id:016x}-01"
            assert delivered.tracestate == "vendor=1"
        assert len({span.context.span_id for span in spans}) == 3
        assert envelope.traceparent == TRACEPARENT, "the sender's own envelope is as it was"


async def test_where_nothing_is_recorded_the_senders_context_travels_on(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        receiver = Receiver()
        await broker.consume(QUEUE, receiver)
        envelope = message(1)
        envelope.traceparent = TRACEPARENT

        await broker.publish(envelope)
        await receiver.received(1)

        assert Envelope.FromString(receiver.deliveries[0].body) == envelope


async def test_what_is_no_message_of_anybody_has_no_span(opened: Opened, exporter: InMemorySpanExporter) -> None:
    async with opened() as broker:
        await broker.declare(1)
        skip = message(1)
        skip.kind = envelope_pb2.ENVELOPE_KIND_SKIP

        await broker.publish(skip)

    assert _sent(exporter) == []


def test_a_publish_that_fails_says_so(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(Unavailable), sending(message(1), QUEUE):
        raise Unavailable("STORE_UNAVAILABLE", "the disk is full")

    (span,) = _sent(exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "STORE_UNAVAILABLE"


def _sent(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """The spans of publishes, in the order of their beginnings."""
    tracing.shutdown()
    found = [span for span in exporter.get_finished_spans() if span.name.startswith("send ")]
    return sorted(found, key=lambda span: span.start_time or 0)
