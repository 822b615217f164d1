"""The control plane's calls on workers."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import grpc

from troupe.chassis.rpc_client import ClientTls, channel, translated
from troupe.v1.data_plane_pb2 import ApplyRequest, PlaceRequest, ReportRequest
from troupe.v1.data_plane_pb2_grpc import DataPlaneServiceStub
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import RevisionAttempt, StatusReport


class WorkerClient(Protocol):
    """One worker, as the control plane calls it. Every method raises TroupeError where the call fails."""

    def reports(self) -> AsyncGenerator[StatusReport, None]:
        """The worker's status, from now until the connection ends; the end is Unavailable or the iterator's end.
        Close it to end the call."""
        ...

    async def apply(self, config: ConfigSpec, timeout: float) -> RevisionAttempt:
        """Bring a revision; how the worker took it."""
        ...

    async def place(self, placement: PlaceRequest, timeout: float) -> None:
        """Bring the placement. FailedPrecondition: the worker knows a newer one."""
        ...


@asynccontextmanager
async def dialled(address: str, tls: ClientTls | None = None) -> AsyncIterator[WorkerClient]:
    """A client of the worker at `address`. Leaving ends its calls."""
    async with channel(address, tls) as opened:
        yield _Client(address, opened)


class _Client:
    def __init__(self, address: str, opened: grpc.aio.Channel) -> None:
        self._address, self._stub = address, DataPlaneServiceStub(opened)

    async def reports(self) -> AsyncGenerator[StatusReport, None]:
        with translated(self._address):
            async for response in self._stub.Report(ReportRequest()):
                yield response.report

    async def apply(self, config: ConfigSpec, timeout: float) -> RevisionAttempt:
        with translated(self._address):
            return (await self._stub.Apply(ApplyRequest(config=config), timeout=timeout)).attempt

    async def place(self, placement: PlaceRequest, timeout: float) -> None:
        with translated(self._address):
            await self._stub.Place(placement, timeout=timeout)
