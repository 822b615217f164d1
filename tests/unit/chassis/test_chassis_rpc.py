import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import grpc
import pytest
import structlog
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from support.echo import SERVICE, Echo, echo

from troupe.chassis import rpc_client, rpc_options
from troupe.chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TroupeError,
    Unavailable,
    Violation,
)
from troupe.chassis.rpc import Serving, serving
from troupe.chassis.rpc_client import translated
from troupe.chassis.service import ServiceSettings
from troupe.chassis.settings import setting

CALLS: dict[str, Callable[[Echo], Awaitable[bytes]]] = {
    "unary": lambda client: client.unary(b"ab", timeout=10),
    "answers": lambda client: gathered(client.answers(b"ab", timeout=10)),
    "asks": lambda client: client.asks(iter([b"a", b"b"]), timeout=10),
    "both": lambda client: gathered(client.both(iter([b"a", b"b"]), timeout=10)),
}
"""One call of each kind, each of which answers b"ab"."""


class EchoSettings(ServiceSettings):
    service: ClassVar[str] = "echo"

    listen: str = setting(default="127.0.0.1:0", description="anywhere")


async def gathered(stream: Any) -> bytes:
    return b"".join([answer async for answer in stream])


@contextlib.asynccontextmanager
async def serving_echo(
    settings: ServiceSettings | None = None, **behaviours: Any
) -> AsyncIterator[tuple[Serving, Echo]]:
    async with (
        serving(settings or EchoSettings(), echo(**behaviours)) as server,
        rpc_client.channel(server.address) as channel,
    ):
        yield server, Echo(channel)


def failing_with(error: Exception) -> dict[str, Any]:
    async def fails(_request: Any, _context: Any) -> bytes:
        raise error

    async def fails_in_a_stream(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise error

    return {"unary": fails, "asks": fails, "answers": fails_in_a_stream, "both": fails_in_a_stream}


def counted(method: str, code: str) -> float:
    return (
        REGISTRY.get_sample_value("troupe_rpc_server_calls_total", {"method": f"{SERVICE}/{method}", "code": code})
        or 0.0
    )


@pytest.mark.parametrize("kind", CALLS)
async def test_calls_of_every_kind_are_answered_and_counted(kind: str) -> None:
    before = counted(kind, "OK")
    async with serving_echo() as (_, client):
        assert await CALLS[kind](client) == b"ab"
    assert counted(kind, "OK") == before + 1


@pytest.mark.parametrize("kind", CALLS)
async def test_an_error_reaches_the_client_whole(kind: str) -> None:
    raised = ResourceExhausted(
        "MAILBOX_FULL",
        "the mailbox is full; try again in 2 s",
        resource="Agent/default/clerk",
        retry_after=2.5,
        violations=[Violation("payload", "one too many")],
        metadata={"shard": "7"},
    )
    before = counted(kind, "RESOURCE_EXHAUSTED")
    async with serving_echo(**failing_with(raised)) as (_, client):
        with pytest.raises(ResourceExhausted) as caught, translated():
            await CALLS[kind](client)
    received = caught.value
    assert received.detail() == raised.detail()
    assert (received.retry_after, received.violations) == (2.5, raised.violations)
    assert received.metadata == {"shard": "7", "source": "gateway"}
    assert counted(kind, "RESOURCE_EXHAUSTED") == before + 1


@pytest.mark.parametrize("kind", CALLS)
async def test_any_other_exception_is_internal_and_tells_the_client_nothing(kind: str) -> None:
    with capture_logs() as lines:
        async with serving_echo(**failing_with(ValueError("password is sesame"))) as (_, client):
            with pytest.raises(TroupeError) as caught, translated():
                await CALLS[kind](client)
    assert (caught.value.reason, type(caught.value).__name__) == ("INTERNAL", "Internal")
    assert "sesame" not in str(caught.value)
    [line] = [line for line in lines if line["event"] == "call failed unexpectedly"]
    assert (line["method"], str(line["exc_info"])) == (f"{SERVICE}/{kind}", "password is sesame")


async def test_the_largest_message_passes_and_a_larger_one_is_refused() -> None:
    async with serving_echo() as (_, client):
        message = bytes(16 * rpc_options.MIB + 1_000)
        assert await client.unary(message) == message
        with pytest.raises(ResourceExhausted), translated():
            await client.unary(bytes(rpc_options.MESSAGE_LIMIT + 1))


async def test_the_server_refuses_what_another_client_would_send() -> None:
    async def swallows(_request: bytes, _context: Any) -> bytes:
        return b""

    async with serving_echo(unary=swallows) as (server, _), grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(ResourceExhausted), translated():
            await Echo(channel).unary(bytes(rpc_options.MESSAGE_LIMIT + 1))


async def test_many_violations_still_arrive() -> None:
    violations = [Violation(f"Agent/default/a{n} spec.model", "no such Model: …" * 5) for n in range(500)]
    async with serving_echo(**failing_with(InvalidArgument("BAD", "x" * 5000, violations=violations))) as (_, client):
        with pytest.raises(InvalidArgument) as caught, translated():
            await client.unary(b"")
    assert caught.value.violations[0] == violations[0]
    assert "more" in caught.value.violations[-1].description


async def test_a_stream_that_its_client_leaves_ends_the_handler_at_once_and_in_its_own_task() -> None:
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        own = asyncio.current_task()
        try:
            while True:
                yield b"x"
        finally:
            ended.set_result(asyncio.current_task() is own)

    async with serving_echo(answers=endless) as (_, client):
        call = client.answers(b"")
        assert await call.read() == b"x"
        call.cancel()
        async with asyncio.timeout(5):
            assert await ended


@pytest.mark.parametrize("kind", ["unary", "answers"])
async def test_a_deadline_that_passes_cancels_the_handler_and_counts_as_such(kind: str) -> None:
    cancelled = asyncio.Event()

    async def waits(_request: bytes, _context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    async def waits_in_a_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await waits(request, context)

    before = counted(kind, "DEADLINE_EXCEEDED")
    async with serving_echo(unary=waits, answers=waits_in_a_stream) as (_, client):
        with pytest.raises(TroupeError) as caught, translated():
            await (client.unary(b"", timeout=0.05) if kind == "unary" else gathered(client.answers(b"", timeout=0.05)))
        async with asyncio.timeout(5):
            await cancelled.wait()
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    assert counted(kind, "DEADLINE_EXCEEDED") == before + 1


async def test_handlers_that_use_grpcs_own_abort_are_left_alone() -> None:
    async def aborts(_request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "by hand")
        return b""

    before = counted("unary", "NOT_FOUND")
    async with serving_echo(unary=aborts) as (_, client):
        with pytest.raises(NotFound, match="by hand"), translated():
            await client.unary(b"")
    assert counted("unary", "NOT_FOUND") == before + 1


async def test_handlers_that_write_to_the_context_work_too() -> None:
    async def writes(request: bytes, context: Any) -> None:
        await context.write(request)

    async with serving_echo(answers=writes) as (_, client):
        assert await gathered(client.answers(b"ab")) == b"ab"


async def test_lines_of_a_handler_are_those_of_its_service() -> None:
    seen = []

    async def looks(request: bytes, _context: Any) -> bytes:
        seen.append(structlog.contextvars.get_contextvars().get("service"))
        return request

    async with serving_echo(unary=looks) as (_, client):
        await client.unary(b"")
    assert seen == ["echo"]
    assert "service" not in structlog.contextvars.get_contextvars()


async def test_health_says_what_the_service_says() -> None:
    async with serving_echo() as (server, _), rpc_client.channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def check(service: str) -> int:
            status: int = (await health.Check(health_pb2.HealthCheckRequest(service=service))).status
            return status

        known = health_pb2.HealthCheckResponse
        assert [await check(""), await check(SERVICE)] == [known.SERVING, known.SERVING]
        await server.set_health("", serving=False)
        assert [await check(""), await check(SERVICE)] == [known.NOT_SERVING, known.SERVING]
        await server.set_health("", serving=True)
        await server.set_health(SERVICE, serving=False)
        assert [await check(""), await check(SERVICE)] == [known.SERVING, known.NOT_SERVING]


async def test_reflection_and_channelz_answer() -> None:
    async with serving_echo() as (server, _), rpc_client.channel(server.address) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        [answer] = [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
        assert {service.name for service in answer.list_services_response.service} == {
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.channelz.v1.Channelz",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        channelz = channelz_pb2_grpc.ChannelzStub(channel)
        assert (await channelz.GetServers(channelz_pb2.GetServersRequest())).server


async def test_stopping_ends_streams_at_once_and_lets_unary_calls_finish() -> None:
    # Given a unary call that works, and a stream that would never end
    working, finish = asyncio.Event(), asyncio.Event()
    detached = asyncio.Event()

    async def works(request: bytes, _context: Any) -> bytes:
        working.set()
        await finish.wait()
        return request

    async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.Event().wait()
        finally:
            detached.set()

    stack = contextlib.AsyncExitStack()
    server = await stack.enter_async_context(serving(EchoSettings(stop_grace=30), echo(unary=works, answers=endless)))
    async with rpc_client.channel(server.address) as channel, asyncio.TaskGroup() as group:
        client = Echo(channel)
        unary = asyncio.ensure_future(client.unary(b"kept"))
        stream = client.answers(b"")
        assert await stream.read() == b"x"
        await working.wait()
        # When the server stops
        stopped = group.create_task(stack.aclose())
        # Then the stream's client is told to go elsewhere, while the unary call goes on to its end
        with pytest.raises(Unavailable) as caught, translated():
            await stream.read()
        assert caught.value.reason == "STOPPING"
        assert detached.is_set()
        assert not stopped.done()
        finish.set()
        assert await unary == b"kept"


async def test_stopping_lets_a_message_that_is_on_its_way_arrive() -> None:
    # Given a message so large that it cannot leave before its client reads
    writing = asyncio.Event()
    large = bytes(8 * rpc_options.MIB)

    async def floods(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        writing.set()
        while True:
            yield large

    stack = contextlib.AsyncExitStack()
    server = await stack.enter_async_context(serving(EchoSettings(stop_grace=30), echo(answers=floods)))
    async with rpc_client.channel(server.address) as channel, asyncio.TaskGroup() as group:
        stream = Echo(channel).answers(b"")
        await writing.wait()
        # When the server stops in the middle of it
        group.create_task(stack.aclose())
        await asyncio.sleep(0)
        # Then the client gets it whole, and then the reason
        assert await stream.read() == large
        with pytest.raises(Unavailable) as caught, translated():
            await stream.read()
    assert caught.value.reason == "STOPPING"


async def test_stopping_ends_a_stream_whose_client_does_not_read_after_its_grace() -> None:
    writing = asyncio.Event()

    async def floods(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        writing.set()
        while True:
            yield bytes(8 * rpc_options.MIB)

    stack = contextlib.AsyncExitStack()
    server = await stack.enter_async_context(serving(EchoSettings(stop_grace=0), echo(answers=floods)))
    async with rpc_client.channel(server.address) as channel:
        stream = Echo(channel).answers(b"")
        await writing.wait()
        async with asyncio.timeout(10):
            await stack.aclose()
        stream.cancel()


async def test_stopping_ends_unary_calls_after_their_grace() -> None:
    working = asyncio.Event()

    async def hangs(_request: bytes, _context: Any) -> bytes:
        working.set()
        await asyncio.Event().wait()
        return b""

    before = counted("unary", "UNAVAILABLE")
    stack = contextlib.AsyncExitStack()
    server = await stack.enter_async_context(serving(EchoSettings(stop_grace=0), echo(unary=hangs)))
    async with rpc_client.channel(server.address) as channel:
        call = asyncio.ensure_future(Echo(channel).unary(b""))
        await working.wait()
        await stack.aclose()
        with pytest.raises(Unavailable) as caught, translated():
            await call
    assert caught.value.reason == "STOPPING"
    assert counted("unary", "UNAVAILABLE") == before + 1


async def test_a_stopped_server_leaves_its_port() -> None:
    async with serving_echo() as (server, _):
        address = server.address
    async with serving_echo(EchoSettings(listen=address)) as (again, client):
        assert again.address == address
        assert await client.unary(b"ab") == b"ab"


async def test_a_busy_port_that_was_asked_for_is_refused_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving_echo() as (server, _):
        with pytest.raises(FailedPrecondition, match=r"in use at 127\.0\.0\.1: name another with --listen") as caught:
            async with serving(EchoSettings(listen=server.address), echo()):
                pytest.fail("two servers at one port")
    assert caught.value.reason == "PORT_IN_USE"
    assert "bind" not in capfd.readouterr().err


async def test_a_busy_default_port_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_echo() as (first, _):
        port = int(first.address.rpartition(":")[2])
        busy = EchoSettings.model_construct(
            _fields_set=set(), **{**EchoSettings().model_dump(), "listen": first.address}
        )
        async with serving_echo(busy) as (second, client):
            assert port < int(second.address.rpartition(":")[2]) < port + 100
            assert await client.unary(b"ab") == b"ab"


async def test_localhost_is_bound_whole() -> None:
    async with serving_echo(EchoSettings(listen="localhost:0")) as (server, client):
        assert server.address.startswith("127.0.0.1:")
        assert await client.unary(b"ab") == b"ab"


async def test_a_service_that_fails_to_register_leaves_nothing_behind() -> None:
    def register(_server: grpc.aio.Server) -> list[str]:
        raise NotFound("MISSING", "no such thing")

    with pytest.raises(NotFound):
        async with serving(EchoSettings(), register):
            pytest.fail("serves")


async def test_clients_that_ping_too_often_are_cut_off() -> None:
    async with serving_echo() as (server, _):
        host, port = server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        pings = [frame(kind=6, payload=struct.pack(">Q", number)) for number in range(10)]
        writer.write(b"".join([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(kind=4), *pings]))
        async with asyncio.timeout(10):
            await reader.readuntil(b"too_many_pings")
        writer.close()


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame of the connection itself."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload
