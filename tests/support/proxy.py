"""A TCP proxy between a client and its server, through which a test spoils the connection."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

CHUNK = 16 * 1024


@dataclass(eq=False)
class _Link:
    """One client and its connection to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def reset(self) -> None:
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError):
                # Linger for no time: close() sends RST, as after a crash of the machine.
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass
class Proxy:
    """Passes everything until told otherwise. What it is told holds for connections that are open and for new ones,
    until `heal`."""

    host: str
    port: int
    listens: int = 0
    accepted: int = 0
    """Connections taken so far."""
    _links: set[_Link] = field(default_factory=set)
    _to_server: asyncio.Event = field(default_factory=asyncio.Event)
    _to_client: asyncio.Event = field(default_factory=asyncio.Event)
    _bytes_per_second: float | None = None
    _delay: float = 0.0
    _refusing: bool = False

    @property
    def open(self) -> int:
        """Connections that are open now, as far as the proxy can see: not while it passes nothing on."""
        return len(self._links)

    def url(self, url: str) -> str:
        """The same URL, by way of this proxy."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.listens}"))

    def cut(self) -> None:
        """Reset every connection. New ones are taken."""
        for link in list(self._links):
            link.reset()

    def refuse(self) -> None:
        """Reset every connection, and new ones too."""
        self._refusing = True
        self.cut()

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Keep connections open and pass nothing on, in these directions."""
        if to_server:
            self._to_server.clear()
        if to_client:
            self._to_client.clear()

    def half_close(self) -> None:
        """Tell servers that their clients will send no more, and go on passing what servers say."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.server.write_eof()

    def slow(self, bytes_per_second: float | None = None, delay: float = 0.0) -> None:
        """Pass at most this much each second in each direction, and all of it `delay` seconds late."""
        self._bytes_per_second, self._delay = bytes_per_second, delay

    def heal(self) -> None:
        """Pass everything again."""
        self._refusing, self._bytes_per_second, self._delay = False, None, 0.0
        self._to_server.set()
        self._to_client.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        if self._refusing:
            link.reset()
            return
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, server_writer, self._to_server))
                tasks.create_task(self._pass(server_reader, writer, self._to_client))
        finally:
            self._links.discard(link)
            for each in (writer, server_writer):
                each.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, open_: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                await open_.wait()
                if self._delay or self._bytes_per_second:
                    late = len(data) / self._bytes_per_second if self._bytes_per_second else 0.0
                    await asyncio.sleep(self._delay + late)
                sink.write(data)
                await sink.drain()
            await open_.wait()
            if sink.can_write_eof():
                sink.write_eof()


@contextlib.asynccontextmanager
async def before(url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server that `url` names."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5672)
    proxy.heal()
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.listens = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield proxy
        finally:
            proxy.heal()
            server.close()
            proxy.cut()
