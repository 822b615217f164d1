"""One trace from a client through gateway, mailbox, turn, model and tool."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from support.up import FIRST_FLEET, in_process

from troupe.chassis import tracing
from troupe.chassis.rpc_client import channel
from troupe.v1.agent_pb2 import ConverseRequest, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef

TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    memory = InMemorySpanExporter()
    tracing.configure("test", exporter=memory)
    yield memory
    tracing.shutdown()


@pytest.fixture
async def gateway(tmp_path: Path, exporter: InMemorySpanExporter) -> AsyncIterator[str]:
    async with in_process(tmp_path, FIRST_FLEET) as address:
        yield address


async def test_a_turn_is_one_trace(gateway: str, exporter: InMemorySpanExporter) -> None:
    # Given a client that traces
    request = ConverseRequest(
        message=SendRequest(
            session=SessionRef(agent="clerk", session="s"), content=Content(text="What is 12345 * 6789?")
        )
    )
    # When it converses, and the turn calls model, tool, and model again
    async with channel(gateway) as connection:
        call = AgentServiceStub(connection).Converse(
            request, metadata=(("traceparent", f"00-{TRACE}-{CLIENT_SPAN}-01"),)
        )
        events = [response.event async for response in call]
    assert events[-1].HasField("completed")
    # Then all of it hangs together, each part under the one that caused it
    tracing.shutdown()
    spans = [span for span in exporter.get_finished_spans() if f"{span.context.trace_id:032x}" == TRACE]
    (served,) = (span for span in spans if span.name == "troupe.v1.AgentService/Converse")
    (sent,) = (span for span in spans if span.name.startswith("send troupe.v1.mailbox."))
    (turn,) = (span for span in spans if span.name == "turn clerk")
    models = [span for span in spans if span.name.startswith("chat ")]
    tools = [span for span in spans if span.name == "execute_tool calculator"]
    assert parent(served) == CLIENT_SPAN
    assert parent(sent) == f"{served.context.span_id:016x}"
    assert parent(turn) == f"{sent.context.span_id:016x}"
    assert [link.context.span_id for link in turn.links] == [sent.context.span_id]
    assert (sent.kind, turn.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert (len(models), len(tools)) == (2, 1)
    assert {parent(span) for span in (*models, *tools)} == {f"{turn.context.span_id:016x}"}


def parent(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"
