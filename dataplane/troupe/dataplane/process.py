"""A worker from its settings."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import structlog

from troupe.chassis import rpc
from troupe.chassis.access.guard import guarding
from troupe.chassis.background import background
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.ids import uuid7
from troupe.chassis.lifecycle import Stop
from troupe.chassis.rpc_client import Credentials
from troupe.dataplane.access import METHODS
from troupe.dataplane.clients import Registration
from troupe.dataplane.departure import Departure
from troupe.dataplane.load import Reporter
from troupe.dataplane.plane import assembled
from troupe.dataplane.service_data_plane import SERVICE as DATA_PLANE_SERVICE
from troupe.dataplane.service_data_plane import DataPlane
from troupe.dataplane.settings import DataPlaneSettings
from troupe.v1.control_plane_pb2 import RegisterRequest
from troupe.v1.data_plane_pb2_grpc import add_DataPlaneServiceServicer_to_server

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that serves."""

    address: str
    """`host:port` really bound."""
    departure: Departure


async def serve(settings: DataPlaneSettings, stop: Stop) -> None:
    """Run a worker until `stop` is set or the control plane drains it; both ways it leaves its shards with others
    first. Raises what `running` does, and FailedPrecondition, REPLACED, where another process registered as this
    worker; by then it has let go of everything."""
    async with running(settings) as worker, background() as group:
        group.create_task(_obey(stop, worker.departure))
        await worker.departure.asked()
        await worker.departure.made()
    log.info("stopped", worker=settings.worker_id, why=worker.departure.why)
    if worker.departure.replaced is not None:
        raise worker.departure.replaced


async def _obey(stop: Stop, departure: Departure) -> None:
    await stop
    departure.ask("it was told to stop")


@contextlib.asynccontextmanager
async def running(settings: DataPlaneSettings, clock: Clock | None = None) -> AsyncIterator[Worker]:
    """Serve until the block is left. Entering returns when calls are answered; the shards come with the control
    plane's placement. Leaving takes nothing new, lets running turns end within `drain_timeout`, and stops, without a
    word to the control plane, for which see `Worker.departure`; a failure in the background cancels the block.

    Raises what `troupe.dataplane.plane.assembled` does, and FailedPrecondition for a port in use, each with one line
    of what to do."""
    clock = clock or SystemClock()
    instance_id, guard = uuid7(), guarding(settings, METHODS)
    async with assembled(settings, clock, instance_id) as plane, background() as tasks:
        reporter = Reporter(
            settings.worker_id, instance_id, plane.host, plane.applier, plane.meter, plane.watch, plane.vitals, clock
        )
        data_plane = DataPlane(plane.applier, reporter, plane.place)

        def register(server: grpc.aio.Server) -> list[str]:
            add_DataPlaneServiceServicer_to_server(data_plane, server)
            return [*plane.register(server), DATA_PLANE_SERVICE]

        async with rpc.serving(settings, register, guard) as serving:
            departure = Departure(plane.host, plane.placement, reporter, serving, settings.drain_patience)
            plane.departs = departure.ask
            joining = RegisterRequest(
                worker_id=settings.worker_id,
                instance_id=instance_id,
                address=settings.advertise or serving.address,
                capacity=plane.room,
                labels=settings.labels,
            )
            registration = Registration(
                settings.server,
                joining,
                clock,
                Credentials.among_peers(settings),
                term=lambda: plane.placement.position[0],
            )
            chores = [
                tasks.create_task(_registered(registration, departure)),
                tasks.create_task(plane.vitals.run(departure.ready)),
            ]
            in_order = False
            try:
                yield Worker(serving.address, departure)
                in_order = True
            finally:
                plane.stopping = True
                for chore in chores:
                    chore.cancel()
                await plane.applier.close(in_order=in_order)


async def _registered(registration: Registration, departure: Departure) -> None:
    departure.replace(await registration.run())
