"""OpenTelemetry traces, with W3C trace context across gRPC metadata and envelopes.

Without a collector no span is recorded, and the context of whoever called still travels on: the cost is one
attribute look-up per call. With one, spans leave in batches from a thread of their own.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from troupe.chassis.ids import uuid7

EXPORT_TIMEOUT = 5.0
"""Seconds that one export may take, and so about the longest that `shutdown` waits for a dead collector."""

_INSTRUMENTATION = "troupe"
_propagator = TraceContextTextMapPropagator()
_UNRECORDED: Final = contextlib.nullcontext(trace.INVALID_SPAN)


class Carrier(NamedTuple):
    """A span's context as the two W3C headers, each empty when there is nothing to say."""

    traceparent: str = ""
    tracestate: str = ""


class _Process:
    """What `configure` set up. Spans belong to a process, not to one of the services in it."""

    provider: TracerProvider | None = None
    tracer: Tracer = trace.get_tracer(_INSTRUMENTATION)


def configure(service: str, otlp_endpoint: str = "", exporter: SpanExporter | None = None) -> None:
    """Record spans from now on and send them to the collector at `otlp_endpoint` (`http://` in the clear, `https://`
    with TLS), or to `exporter`. With neither, none are recorded. Replaces what an earlier call set up."""
    shutdown()
    if exporter is None:
        if not otlp_endpoint:
            return
        exporter = _otlp(otlp_endpoint)
    provider = TracerProvider(
        shutdown_on_exit=False,
        resource=Resource.create(
            {
                "service.name": service,
                "service.instance.id": uuid7(),
                "service.version": metadata.version("troupe-chassis"),
            }
        ),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _Process.provider = provider
    _Process.tracer = provider.get_tracer(_INSTRUMENTATION)


def shutdown() -> None:
    """Send what is still waiting and stop recording. Blocks up to `EXPORT_TIMEOUT` when the collector is gone."""
    provider, _Process.provider = _Process.provider, None
    _Process.tracer = trace.get_tracer(_INSTRUMENTATION)
    if provider is not None:
        provider.shutdown()


def recording() -> bool:
    """Whether `configure` found somewhere to send spans to."""
    return _Process.provider is not None


def tracer() -> Tracer:
    """The tracer of this process. Ask for it where a span starts: `configure` replaces it."""
    return _Process.tracer


def around(name: str, attributes: Mapping[str, str]) -> AbstractContextManager[Span]:
    """A span for what is done inside, as the current one; where none are recorded, one that takes what it is told, and
    the current one stays."""
    if not recording():
        return _UNRECORDED
    return tracer().start_as_current_span(name, attributes=attributes)


def carrier(span: Span | None = None) -> Carrier:
    """The context of `span`, or of the current one, for a peer; empty outside of any span."""
    of = (span or trace.get_current_span()).get_span_context()
    if not of.is_valid:
        return Carrier()
    parent = f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}"
    return Carrier(parent, of.trace_state.to_header() if of.trace_state else "")


def context(traceparent: str, tracestate: str = "") -> Context:
    """A peer's context, to start spans in; an empty one when the headers are absent or malformed."""
    return _propagator.extract({"traceparent": traceparent, "tracestate": tracestate}, context=Context())


def links(sender: Context) -> Sequence[Link]:
    """The link of a span that works on a message with the one that sent it: `sender` is that one's `context`. None
    where nothing is recorded, or nobody traced the message."""
    span = trace.get_current_span(sender).get_span_context()
    return [Link(span)] if recording() and span.is_valid else ()


@contextlib.contextmanager
def remote_call(method: str, sender: Carrier) -> Iterator[Span | None]:
    """The server's side of one call that a peer made, with its span as the current one. Where none are recorded there
    is no span, and the peer's context is the current one."""
    if not recording():
        token = attach(context(*sender))
        try:
            yield None
        finally:
            detach(token)
        return
    service, _, name = method.partition("/")
    with tracer().start_as_current_span(
        method,
        context=context(*sender),
        kind=SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def _otlp(endpoint: str) -> SpanExporter:
    # Imported here: it opens a channel and costs every command its start-up otherwise.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT)
