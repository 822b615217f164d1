"""Calls to a server: answered, counted, refused, left and too late."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs
from support.echo import SERVICE, Echo
from support.serving_echo import CALLS, counted, failing_with, gathered, serving_echo

from troupe.chassis import rpc_interceptors, rpc_options
from troupe.chassis.errors import (
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TroupeError,
    Violation,
)
from troupe.chassis.rpc_client import translated


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


@pytest.mark.parametrize("timeout", [None, 10])
async def test_a_stream_that_its_client_leaves_ends_the_handler_at_once_and_in_its_own_task(
    timeout: float | None,
) -> None:
    before = counted("answers", "CANCELLED")
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        own = asyncio.current_task()
        try:
            while True:
                yield b"x"
        finally:
            ended.set_result(asyncio.current_task() is own)

    async with serving_echo(answers=endless) as (_, client):
        call = client.answers(b"", timeout=timeout)
        assert await call.read() == b"x"
        call.cancel()
        async with asyncio.timeout(10):
            assert await ended
    assert counted("answers", "CANCELLED") == before + 1


@pytest.mark.parametrize("kind", ["unary", "answers"])
async def test_a_deadline_that_passes_cancels_the_handler_and_counts_as_such(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_interceptors, "_GIVEN_UP_BEFORE", 0.9)  # a busy machine takes its time on the way
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
            await (client.unary(b"", timeout=1.0) if kind == "unary" else gathered(client.answers(b"", timeout=1.0)))
        async with asyncio.timeout(10):
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
