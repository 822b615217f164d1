"""A control plane from its settings."""

import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc

from troupe.chassis import rpc
from troupe.chassis.access.guard import guarding
from troupe.chassis.background import background
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import FailedPrecondition
from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import Credentials
from troupe.controlplane.access import METHODS
from troupe.controlplane.candidacy import LeaderTimes
from troupe.controlplane.clients import dialled
from troupe.controlplane.leadership import Leader
from troupe.controlplane.link import LinkTimes
from troupe.controlplane.reign import ReignTimes, Surroundings
from troupe.controlplane.seat import Seat
from troupe.controlplane.service import SERVICE, ControlPlane
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import RevisionStore
from troupe.v1.control_plane_pb2_grpc import add_ControlPlaneServiceServicer_to_server


@dataclass(frozen=True, slots=True)
class Running:
    """A control plane that serves."""

    address: str
    """`host:port` really bound."""


@asynccontextmanager
async def running(settings: ControlPlaneSettings, clock: Clock | None = None) -> AsyncIterator[Running]:
    """Serve until the block is left. Entering returns when calls are answered, and this control plane leads and has
    taken up what the store holds, or stands by for another one that does. Leaving resigns, ends streams, lets calls
    finish and closes the store; a failure in the background cancels the block.

    Raises, each with one line of what to do: FailedPrecondition for a data directory that cannot be written, is of a
    newer Troupe or has another number of shards than was asked for, and for a port in use; DataLoss for a broken
    store; InvalidArgument for a store URL or TLS files that are none."""
    clock = clock or SystemClock()
    # An absolute path, so that the URL means the same file whatever the directory that the process runs in.
    url = settings.store or f"sqlite:///{(settings.data / 'controlplane.db').absolute()}"
    async with connected(url, settings.shards) as store:
        _check_shards(settings, store)
        status = FleetStatus(clock, settings.max_watchers)
        seat = Seat(_surroundings(settings, store, status, clock))
        servicer = ControlPlane(settings, store, status, seat)

        def register(server: grpc.aio.Server) -> list[str]:
            add_ControlPlaneServiceServicer_to_server(servicer, server)
            return [SERVICE]

        # The seat is inside: it is given up before calls end, so that another control plane can take them at once.
        async with rpc.serving(settings, register, guarding(settings, METHODS)) as serving, background() as group:
            address = settings.advertise or serving.address
            group.create_task(seat.run(Leader(store, clock, _holder(), address, _leader_times(settings))))
            await seat.settled(settings.leader_renew_deadline)
            yield Running(serving.address)


def _surroundings(
    settings: ControlPlaneSettings, store: RevisionStore, status: FleetStatus, clock: Clock
) -> Surroundings:
    return Surroundings(
        store=store,
        status=status,
        dial=partial(dialled, credentials=Credentials.among_peers(settings)),
        clock=clock,
        random=random.random,
        workers=settings.workers,
        max_workers=settings.max_workers,
        times=ReignTimes(
            lease=settings.lease,
            release=settings.release_timeout,
            stuck=settings.stuck_after,
            forget=settings.forget_after,
            link=LinkTimes(apply=settings.apply_timeout),
        ),
    )


def _holder() -> str:
    """What no other process is called, and where to look for this one."""
    return f"{socket.gethostname()}/{os.getpid()}/{uuid7()}"


def _leader_times(settings: ControlPlaneSettings) -> LeaderTimes:
    return LeaderTimes(settings.leader_lease, settings.leader_renew_deadline, settings.leader_retry)


def _check_shards(settings: ControlPlaneSettings, store: RevisionStore) -> None:
    if "shards" in settings.model_fields_set and settings.shards != store.shard_count:
        raise FailedPrecondition(
            "SHARDS_FIXED",
            f"this fleet was created with {store.shard_count} shards, which cannot be changed to {settings.shards}; "
            "leave out --shards, or name another directory with --data",
        )
    if settings.workers > store.shard_count:
        raise FailedPrecondition(
            "TOO_FEW_SHARDS",
            f"this fleet was created with {store.shard_count} shards, too few for {settings.workers} workers; "
            "ask for fewer, or name another directory with --data",
        )
