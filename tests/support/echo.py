"""A gRPC service over plain bytes, one method of each kind, whose behaviours a test chooses."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc

SERVICE = "test.Echo"


async def unary(request: bytes, _context: Any) -> bytes:
    return request


async def answers(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for byte in request:
        yield bytes([byte])


async def asks(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    return b"".join([request async for request in requests])


async def both(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def echo(**behaviours: Any) -> Callable[[grpc.aio.Server], Iterable[str]]:
    """What registers the service, with `unary`, `answers`, `asks` and `both` replaced as asked."""
    chosen = {"unary": unary, "answers": answers, "asks": asks, "both": both} | behaviours

    def register(server: grpc.aio.Server) -> Iterable[str]:
        handlers: dict[str, Any] = {
            "unary": grpc.unary_unary_rpc_method_handler(chosen["unary"]),
            "answers": grpc.unary_stream_rpc_method_handler(chosen["answers"]),
            "asks": grpc.stream_unary_rpc_method_handler(chosen["asks"]),
            "both": grpc.stream_stream_rpc_method_handler(chosen["both"]),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        return [SERVICE]

    return register


class Echo:
    """Its client."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        calls: Any = channel
        self.unary = calls.unary_unary(f"/{SERVICE}/unary")
        self.answers = calls.unary_stream(f"/{SERVICE}/answers")
        self.asks = calls.stream_unary(f"/{SERVICE}/asks")
        self.both = calls.stream_stream(f"/{SERVICE}/both")
