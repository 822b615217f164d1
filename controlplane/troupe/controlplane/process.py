"""A control plane from its settings."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc

from troupe.chassis import rpc
from troupe.chassis.background import background
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import FailedPrecondition
from troupe.chassis.rpc_client import ClientTls
from troupe.controlplane.clients import dialled
from troupe.controlplane.link import LinkTimes
from troupe.controlplane.service import SERVICE, ControlPlane
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.connect import connected
from troupe.controlplane.stores.port import RevisionStore
from troupe.controlplane.syncs import Syncs
from troupe.controlplane.workers import Workers, WorkersTimes
from troupe.v1.control_plane_pb2_grpc import add_ControlPlaneServiceServicer_to_server


@dataclass(frozen=True, slots=True)
class Running:
    """A control plane that serves."""

    address: str
    """`host:port` really bound."""


@asynccontextmanager
async def running(settings: ControlPlaneSettings, clock: Clock | None = None) -> AsyncIterator[Running]:
    """Serve until the block is left. Entering returns when calls are answered and what the store holds is taken up;
    leaving ends streams, lets calls finish and closes the store; a failure in the background cancels the block.

    Raises, each with one line of what to do: FailedPrecondition for a data directory that cannot be written, is in
    use, is of a newer Troupe or has another number of shards than was asked for, and for a port in use; DataLoss
    for a broken store; InvalidArgument for a store URL or TLS files that are none."""
    clock = clock or SystemClock()
    # An absolute path, so that the URL means the same file whatever the directory that the process runs in.
    url = settings.store or f"sqlite:///{(settings.data / 'controlplane.db').absolute()}"
    async with connected(url, settings.shards) as store, background() as group:
        _check_shards(settings, store)
        status = FleetStatus(clock, settings.lease, settings.max_watchers)
        workers = Workers(
            store,
            status,
            partial(dialled, tls=ClientTls.among_peers(settings)),
            clock,
            random.random,
            wanted=settings.workers,
            max_workers=settings.max_workers,
            times=WorkersTimes(forget=settings.forget_after, link=LinkTimes(apply=settings.apply_timeout)),
        )
        await workers.restore(group)
        servicer = ControlPlane(settings, store, Syncs(store, clock, workers.publish), status, workers)

        def register(server: grpc.aio.Server) -> list[str]:
            add_ControlPlaneServiceServicer_to_server(servicer, server)
            return [SERVICE]

        async with rpc.serving(settings, register) as serving:
            yield Running(serving.address)


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
