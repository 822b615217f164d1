"""Everything that lies between one worker's process and the others, to be cut one line at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from support import proxy
from support.fleet_processes import FleetProcesses, Process, free_address

Way = Literal["silent", "deaf", "mute", "refused"]
"""What is the matter with a line: nothing passes, nothing comes to the worker, nothing comes from it, or its
connections are reset and new ones too."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Tests call the worker directly."""

    to_control_plane: proxy.Proxy
    """It registers by this."""
    from_control_plane: proxy.Proxy
    """It is told its shards and revision by this, and asked for reports. Its peers reach it by this too."""
    broker: proxy.Proxy
    store: proxy.Proxy

    def leave_control_plane(self, way: Way) -> None:
        """Spoil both lines to the control plane."""
        spoil(self.to_control_plane, way)
        spoil(self.from_control_plane, {"deaf": "mute", "mute": "deaf"}.get(way, way))

    def return_to_control_plane(self) -> None:
        self.to_control_plane.heal()
        self.from_control_plane.heal()


def spoil(line: proxy.Proxy, way: str) -> None:
    """`line.heal()` ends it. Deaf and mute are meant for the one who dials."""
    if way == "refused":
        line.refuse()
    else:
        line.stall(to_server=way != "deaf", to_client=way != "mute")


@asynccontextmanager
async def worker_on_lines(fleet: FleetProcesses, name: str, **settings: Any) -> AsyncIterator[tuple[Process, Lines]]:
    """A worker that serves, and its lines, which pass everything. They are gone when the block is left."""
    address = free_address()
    async with (
        proxy.before(f"tcp://{fleet.servers[0]}") as to_control_plane,
        proxy.before(f"tcp://{address}") as from_control_plane,
        proxy.before(fleet.broker) as broker,
        proxy.before(fleet.state) as store,
    ):
        process = await fleet.worker(
            name,
            address,
            server=f"127.0.0.1:{to_control_plane.listens}",
            advertise=f"127.0.0.1:{from_control_plane.listens}",
            broker=f"{broker.url(fleet.broker)}?heartbeat=2",
            state=store.url(fleet.state),
            **settings,
        )
        try:
            yield process, Lines(to_control_plane, from_control_plane, broker, store)
        finally:
            await process.kill()
