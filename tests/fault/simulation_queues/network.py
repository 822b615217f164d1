"""What is between a process and the server: bytes in their order, late, held up in one direction or both, or lost with
their connection."""

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fault.simulation.loop import Process
from fault.simulation_queues.history import History
from fault.simulation_queues.server import Connection, Server
from pika import exceptions

from troupe.broker.rabbitmq.link import Link

OUT, IN = "out", "in"
REFUSED = 0.001
"""Seconds after which a host says that nobody listens."""


class Host:
    """Where one process runs: its way to the server, and its clock, which may be wrong."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = Process(name)
        self.cut: set[str] = set()
        """Directions in which nothing gets through now."""
        self.clock = 0.0
        """Seconds by which it is ahead."""
        self.ends: list[End] = []

    def enter(self) -> None:
        """What is started in its process's context from now on is its own."""
        self.process = Process(self.name)
        self.process.context.run(here.set, self)

    def vanish(self) -> None:
        """Nothing gets through its connections any more, and nobody is told."""
        for end in self.ends:
            end.vanished = True

    def heal(self) -> None:
        self.cut.clear()
        for end in list(self.ends):
            end.heal()


here: contextvars.ContextVar[Host] = contextvars.ContextVar("here")
"""The host on which the code that asks runs."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Seconds that bytes are on their way: mostly `usual` at most, sometimes `longest`."""

    usual: float = 0.002
    longest: float = 0.002
    rare: float = 0.05


class Network:
    """Ways of all hosts to the server."""

    def __init__(self, server: Server, dice: random.Random, weather: Weather, history: History) -> None:
        self.server, self._dice, self.weather, self.history = server, dice, weather, history

    def latency(self) -> float:
        slow = self._dice.random() < self.weather.rare
        return self._dice.uniform(0.0002, self.weather.longest if slow else self.weather.usual)

    def link(self) -> type[Link]:
        """Links over this network, in place of sockets."""
        network = self

        class Linked(Link):
            def _adapter_connect_stream(self) -> None:
                self._end = End(network, here.get(), self)

            def _abort_connection_workflow(self) -> None:
                self._end.abort()

        return Linked


class Way:
    """One direction of a connection."""

    def __init__(self, end: "End", direction: str, arrive: Callable[[bytes | None], None]) -> None:
        self._end, self._direction, self._arrive = end, direction, arrive
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._last = 0.0

    def send(self, data: bytes | None) -> None:
        """None is the end."""
        loop = asyncio.get_running_loop()
        self._last = max(self._last, loop.time() + self._end.network.latency())
        self._under_way.append((self._last, data))
        loop.call_at(self._last, self.move, context=self._context)

    def move(self) -> None:
        """Hand over what has arrived."""
        while (
            self._under_way
            and self._under_way[0][0] <= asyncio.get_running_loop().time()
            and self._direction not in self._end.host.cut
        ):
            _, data = self._under_way.popleft()
            if not self._end.vanished:
                self._arrive(data)

    def heal(self) -> None:
        asyncio.get_running_loop().call_soon(self.move, context=self._context)

    @property
    def _context(self) -> contextvars.Context:
        return self._end.context if self._direction == IN else self._end.outside


class End:
    """A connection's end at its process: the transport that pika has."""

    def __init__(self, network: Network, host: Host, link: Any) -> None:
        self.network, self.host, self._link = network, host, link
        self.context, self.outside = host.process.context, contextvars.Context()
        self._connection: Connection | None = None
        self._opened = self._closed = self.vanished = False
        self._out = Way(self, OUT, self._at_server)
        self._in = Way(self, IN, self._at_process)
        host.ends.append(self)
        loop = asyncio.get_running_loop()
        loop.call_later(link.params.stack_timeout, self._gives_up, context=self.context)
        self._out.send(b"")

    def write(self, data: bytes) -> None:
        if not self._closed:
            self._out.send(bytes(data))

    def abort(self) -> None:
        """The process closes it."""
        if not self._closed:
            self._close()
            self._out.send(None)
            asyncio.get_running_loop().call_soon(self._link._proto_connection_lost, None, context=self.context)

    def die(self) -> None:
        """The process is dead, and its kernel says so. What is left of it here comes to its end."""
        if not self._closed:
            self._close()
            self._out.send(None)
            gone = ConnectionResetError("its process is dead")
            if self._opened:
                asyncio.get_running_loop().call_soon(self._link._proto_connection_lost, gone, context=self.context)
            else:
                asyncio.get_running_loop().call_soon(self._link._on_stream_terminated, gone, context=self.context)

    def heal(self) -> None:
        self._out.heal()
        self._in.heal()

    def get_write_buffer_size(self) -> int:
        return 0

    def _close(self) -> None:
        self._closed = True

    def _gives_up(self) -> None:
        if not (self._closed or self._link.is_open):
            if self._opened:
                self._link._terminate_stream(exceptions.AMQPConnectionError(TimeoutError("no answer")))
            else:
                self._fails(TimeoutError("no answer"))

    def _fails(self, reason: Exception) -> None:
        """There never was a connection."""
        if not self._closed:
            self._close()
            self._link._on_stream_terminated(exceptions.AMQPConnectionError(reason))

    def _at_server(self, data: bytes | None) -> None:
        """Bytes have come there."""
        server = self.network.server
        if data is None:
            if self._connection is not None:
                self._connection.end()
            if self in self.host.ends:
                self.host.ends.remove(self)
        elif self._connection is not None:
            self._connection.received(data)
        elif server.up:
            self._connection = Connection(server, self.network.history, self._in.send, lambda: self._in.send(None))
            self._in.send(b"")
        else:
            self._in.send(None)

    def _at_process(self, data: bytes | None) -> None:
        """Bytes have come back."""
        if self._closed:
            return
        if data is None and not self._opened:
            self._fails(ConnectionRefusedError("connection refused"))
        elif data is None:
            self._close()
            self._link._proto_connection_lost(ConnectionResetError("reset by the server"))
        elif not self._opened:
            self._opened = True
            self._link._proto_connection_made(self)
        else:
            self._link._proto_data_received(data)
