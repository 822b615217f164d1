"""The listening socket, and how it is given up."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from troupe.chassis import address, tls
from troupe.chassis.address import Address
from troupe.chassis.tls import Certificates
from troupe.llm_sim.settings import LlmSimSettings


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the application can be reached."""

    address: str
    url: str


@asynccontextmanager
async def listening(
    application: web.Application, settings: LlmSimSettings, stopping: asyncio.Event
) -> AsyncIterator[Bound]:
    """Serve `application` at `listen`, with TLS where the settings say so. On leaving, `stopping` is set first, then
    requests in flight get `stop_grace` seconds. Raises what `address.listening` and `tls.guarding` do."""
    certificates = tls.guarding(settings, settings.listen)
    flights = _Flights()
    application.middlewares.insert(0, flights.counted)
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        listener = address.listening(settings.listen, asked="listen" in settings.model_fields_set)
        context = _renewing(certificates) if certificates else None
        site = web.SockSite(runner, listener, ssl_context=context, backlog=1024)
        await site.start()
        bound = Address(Address.parse(settings.listen).host, listener.getsockname()[1])
        try:
            yield Bound(str(bound), f"{'https' if context else 'http'}://{bound}/v1")
        finally:
            stopping.set()
            await site.stop()
            await flights.land(settings.stop_grace)
    finally:
        await runner.cleanup()


def _renewing(certificates: Certificates) -> ssl.SSLContext:
    """What every new connection is served with: the certificates as they are then."""
    current = certificates.server_context()

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current
        if certificates.refresh():
            current = certificates.server_context()
        connection.context = current

    first = current
    first.sni_callback = renew
    return first


class _Flights:
    """The connections whose requests are being answered."""

    def __init__(self) -> None:
        self._connections: set[asyncio.Transport] = set()
        self._none = asyncio.Event()
        self._none.set()

    @web.middleware
    async def counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.transport
        if connection is None:
            return await handler(request)
        self._connections.add(connection)
        self._none.clear()
        try:
            return await handler(request)
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._none.set()

    async def land(self, grace: float) -> None:
        """Wait until none is left; after `grace` seconds cut those that are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._none.wait()
        for connection in self._connections:
            connection.abort()
        await self._none.wait()
