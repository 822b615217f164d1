"""Servers of the echo service, and calls of each kind to them."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

from prometheus_client import REGISTRY
from support.echo import SERVICE, Echo, echo

from troupe.chassis import rpc_client
from troupe.chassis.rpc import Serving, serving
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
