"""A model endpoint whose every byte a test decides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request and the answer to it."""

    request: web.Request
    body: bytes
    _response: web.StreamResponse | None = None

    async def open(self, content_type: str = "text/event-stream", status: int = 200) -> None:
        """Send status and headers."""
        self._response = web.StreamResponse(status=status, headers={"Content-Type": content_type})
        await self._response.prepare(self.request)

    async def send(self, *pieces: bytes) -> None:
        """Send part of the body, opening it first."""
        if self._response is None:
            await self.open()
        assert self._response is not None
        for piece in pieces:
            await self._response.write(piece)

    async def refuse(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer with a status and a body, whole."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._response = web.Response(status=status, body=body, headers=named)

    def abort(self) -> None:
        """Reset the connection."""
        if self.request.transport is not None:
            self.request.transport.abort()

    @property
    def response(self) -> web.StreamResponse:
        return self._response if self._response is not None else web.Response()


@dataclass
class ModelServer:
    """`handler` answers each request; `asked` counts requests, `left` clients that closed their
    connection under one."""

    handler: Handler
    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)
    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    left: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        exchange = Exchange(request, await request.read())
        self.exchanges.append(exchange)
        self.asked.release()
        try:
            await self.handler(exchange)
        except asyncio.CancelledError:
            self.left.release()
            raise
        except ConnectionError:
            self.left.release()
        return exchange.response


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[ModelServer]:
    """Serve `POST /v1/chat/completions` on a free port."""
    server = ModelServer(handler)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
