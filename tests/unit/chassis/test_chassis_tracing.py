import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.echo import Echo, echo

from troupe.chassis import rpc_client, tracing
from troupe.chassis.errors import NotFound, TroupeError
from troupe.chassis.rpc import serving
from troupe.chassis.rpc_client import translated
from troupe.chassis.service import ServiceSettings

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Where this process's spans go; `tracing.shutdown` brings them there."""
    memory = InMemorySpanExporter()
    tracing.configure("echo", exporter=memory)
    yield memory
    tracing.shutdown()


async def through_two_servers(metadata: tuple[tuple[str, str], ...] = ()) -> list[tracing.Carrier]:
    """What a first server and then a second one, which the first calls, see as the current span; the second's first."""
    seen: list[tracing.Carrier] = []

    async def looks(request: bytes, _context: Any) -> bytes:
        seen.append(tracing.carrier())
        return request

    async with calling(looks) as second:

        async def relays(request: bytes, context: Any) -> bytes:
            answer: bytes = await second.unary(request)
            return await looks(answer, context)

        async with calling(relays) as first:
            await first.unary(b"", metadata=metadata)
    return seen


@contextlib.asynccontextmanager
async def calling(behaviour: Any) -> AsyncIterator[Echo]:
    """A client of a server that behaves so."""
    async with (
        serving(ServiceSettings(), echo(unary=behaviour)) as server,
        rpc_client.channel(server.address) as channel,
    ):
        yield Echo(channel)


async def test_without_a_collector_the_callers_context_travels_on() -> None:
    seen = await through_two_servers((("traceparent", PARENT), ("tracestate", "vendor=1")))
    assert seen == [tracing.Carrier(PARENT, "vendor=1")] * 2


async def test_without_a_collector_and_a_caller_there_is_nothing_to_carry() -> None:
    assert await through_two_servers() == [tracing.Carrier()] * 2


async def test_one_trace_from_the_client_through_two_servers(exporter: InMemorySpanExporter) -> None:
    with tracing.tracer().start_as_current_span("ask") as span:
        trace_id = span.get_span_context().trace_id
        await through_two_servers()
    tracing.shutdown()
    inner, outer, ask = exporter.get_finished_spans()
    assert {each.context.trace_id for each in (inner, outer, ask) if each.context} == {trace_id}
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert outer.parent is not None
    assert outer.parent.span_id == span.get_span_context().span_id
    assert (inner.kind, inner.name) == (SpanKind.SERVER, "test.Echo/unary")
    assert dict(inner.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "test.Echo",
        "rpc.method": "unary",
        "rpc.grpc.status_code": 0,
    }
    assert inner.resource.attributes["service.name"] == "echo"
    assert inner.resource.attributes["service.version"]
    assert inner.resource.attributes["service.instance.id"]


async def test_a_foreign_caller_is_the_parent(exporter: InMemorySpanExporter) -> None:
    await through_two_servers((("traceparent", PARENT),))
    tracing.shutdown()
    assert {trace.format_trace_id(span.context.trace_id) for span in exporter.get_finished_spans() if span.context} == {
        TRACE
    }


async def test_a_failed_call_is_a_failed_span_without_its_words(exporter: InMemorySpanExporter) -> None:
    async def fails(_request: bytes, _context: Any) -> bytes:
        raise NotFound("MISSING", "no prompt text in traces")

    async with calling(fails) as client:
        with pytest.raises(TroupeError), translated():
            await client.unary(b"")
    tracing.shutdown()
    [span] = exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "NOT_FOUND")
    assert dict(span.attributes or {})["rpc.grpc.status_code"] == 5
    assert span.events == ()


@pytest.mark.parametrize("traceparent", ["", "garbage", f"00-{'0' * 32}-b7ad6b7169203331-01", "x" * 1000])
def test_malformed_headers_are_no_context(traceparent: str) -> None:
    span = trace.get_current_span(tracing.context(traceparent)).get_span_context()
    assert not span.is_valid


def test_a_carrier_reads_back_as_the_same_context() -> None:
    with tracing.tracer().start_as_current_span("turn", context=tracing.context(PARENT, "vendor=1")):
        assert tracing.carrier() == tracing.Carrier(PARENT, "vendor=1")


def test_configuring_without_a_collector_stops_recording(exporter: InMemorySpanExporter) -> None:
    assert tracing.recording()
    tracing.configure("echo")
    assert not tracing.recording()
    with tracing.tracer().start_as_current_span("unseen") as span:
        assert not span.is_recording()
    assert exporter.get_finished_spans() == ()


async def test_spans_reach_a_collector() -> None:
    received: list[str] = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
            received.extend(
                span.name for each in request.resource_spans for scope in each.scope_spans for span in scope.spans
            )
            return trace_service_pb2.ExportTraceServiceResponse()

    def register(server: Any) -> list[str]:
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(Collector(), server)
        return []

    async with serving(ServiceSettings(), register) as collector:
        tracing.configure("echo", f"http://{collector.address}")
        with tracing.tracer().start_as_current_span("turn"):
            pass
        await asyncio.to_thread(tracing.shutdown)
    assert received == ["turn"]


def test_a_collector_that_is_gone_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EXPORT_TIMEOUT", 0.5)
    tracing.configure("echo", "http://127.0.0.1:1")
    with tracing.tracer().start_as_current_span("turn"):
        pass
    begun = time.monotonic()
    tracing.shutdown()
    assert time.monotonic() - begun < 5
