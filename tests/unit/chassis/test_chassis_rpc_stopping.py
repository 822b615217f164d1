"""Servers that stop in the middle of calls."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.echo import Echo, echo
from support.serving_echo import EchoSettings, counted

from troupe.chassis import rpc_client, rpc_options
from troupe.chassis.errors import (
    Unavailable,
)
from troupe.chassis.rpc import serving
from troupe.chassis.rpc_client import translated


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
