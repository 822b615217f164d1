"""How an answer goes over its connection, whole or broken as a fault has it."""

import asyncio
from typing import assert_never

from aiohttp import web

from troupe.llm_sim import encoding
from troupe.llm_sim.completion import Piece
from troupe.llm_sim.encoding import ChunkEncoder, Head
from troupe.llm_sim.engine import Generation
from troupe.llm_sim.faults import Fault, FaultKind

_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_JSON = {"Content-Type": "application/json"}
_GARBAGE = (
    b"\x00\xff\xfe<html>\xc3\x28\x80 not what you asked for\r\ndata: {]\xf0\x28\x8c\x28\n\n\x1f\x8b\x08garbage\n\n"
)


async def deliver_events(
    http: web.Request,
    generation: Generation,
    head: Head,
    *,
    counts: bool,
    fault: Fault | None,
    stopping: asyncio.Event,
) -> web.StreamResponse:
    """Server-sent events: headers at once, each token when it is due. Raises ConnectionError when the client left;
    `stopping` ends a stall."""
    response = web.StreamResponse(headers=_EVENTS)
    await response.prepare(http)
    encoder = ChunkEncoder(head, counts=counts)
    opening = encoder.opening()

    async def emit(piece: Piece) -> None:
        nonlocal opening
        chunk = encoder.piece(piece)
        await response.write(opening + chunk if opening else chunk)
        opening = b""

    if fault:
        await generation.run_part(fault.after, emit)
        await _break(http, response, fault, stopping)
        return response
    await generation.run(emit)
    closing = [opening, encoder.finish(generation.completion.finish_reason)]
    if counts:
        closing.append(encoder.usage(generation.usage))
    await response.write(b"".join([*closing, encoding.DONE]))
    await response.write_eof()
    return response


async def deliver_body(
    http: web.Request, generation: Generation, head: Head, *, fault: Fault | None, stopping: asyncio.Event
) -> web.StreamResponse:
    """One JSON body when the last token is due. A fault lets half of it through, after as many tokens as it says."""

    async def emit(_: Piece) -> None:
        pass

    body = encoding.body(head, generation.completion, generation.usage)
    if fault is None:
        await generation.run(emit)
        return web.Response(body=body, headers=_JSON)
    await generation.run_part(fault.after, emit)
    response = web.StreamResponse(headers=_JSON)
    half = b"" if fault.kind is FaultKind.GARBAGE else body[: len(body) // 2]
    if fault.kind in (FaultKind.CUT, FaultKind.STALL):
        response.content_length = len(body)
    await response.prepare(http)
    await response.write(half)
    await _break(http, response, fault, stopping)
    return response


async def fall_silent(http: web.Request, stopping: asyncio.Event) -> None:
    """Answer nothing until the client leaves, which cancels, or the server stops, which cuts."""
    await stopping.wait()
    await cut(http)


async def cut(http: web.Request) -> None:
    """Close the connection without another word. Never returns: the loss of its connection cancels a handler."""
    if http.transport is not None:
        http.transport.abort()
    await gone()


async def gone() -> None:
    """Wait for the cancellation that a lost connection brings; to return would be to answer nobody."""
    await asyncio.get_running_loop().create_future()


async def _break(http: web.Request, response: web.StreamResponse, fault: Fault, stopping: asyncio.Event) -> None:
    match fault.kind:
        case FaultKind.CUT:
            await cut(http)
        case FaultKind.STALL:
            await fall_silent(http, stopping)
        case FaultKind.GARBAGE:
            await response.write(_GARBAGE)
            await response.write_eof()
        case FaultKind.HALF:
            await response.write_eof()
        case FaultKind.RATE_LIMIT | FaultKind.SERVER_ERROR | FaultKind.OVERLOADED | FaultKind.SILENCE:
            raise AssertionError(f"{fault.kind} happens before there is an answer")
        case _ as never:
            assert_never(never)
