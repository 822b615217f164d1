"""The control plane's calls on workers."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

import grpc

from troupe.chassis.address import Address
from troupe.chassis.errors import Unavailable
from troupe.chassis.rpc_client import Credentials, channel, translated
from troupe.controlplane.packed import Packed
from troupe.v1.data_plane_pb2 import DESCRIPTOR, ApplyResponse, PlaceResponse, ReportRequest
from troupe.v1.data_plane_pb2_grpc import DataPlaneServiceStub
from troupe.v1.status_pb2 import RevisionAttempt, StatusReport

Response = TypeVar("Response")
Call = grpc.aio.UnaryUnaryMultiCallable[bytes, Response]

_SERVICE: Final = DESCRIPTOR.services_by_name["DataPlaneService"].full_name

_PROBE: Final = 0.5
"""Seconds that a host gets to say whether somebody listens at a port."""


class Refused(Unavailable):
    """Nobody listens at the worker's address, as its host says: the process is gone, or has closed its listener."""


class WorkerClient(Protocol):
    """One worker, as the control plane calls it. Every method raises TroupeError where the call fails."""

    def reports(self) -> AsyncGenerator[StatusReport, None]:
        """The worker's status, from now until the connection ends; the end is Unavailable or the iterator's end.
        Raises Refused, before the first, where nobody listens. Close it to end the call."""
        ...

    async def apply(self, revision: Packed, timeout: float) -> RevisionAttempt:
        """Bring a revision; how the worker took it."""
        ...

    async def place(self, placement: bytes, timeout: float) -> None:
        """Bring the placement, a serialised PlaceRequest. FailedPrecondition: the worker knows a newer one."""
        ...


@asynccontextmanager
async def dialled(address: str, credentials: Credentials | None = None) -> AsyncIterator[WorkerClient]:
    """A client of the worker at `address`. Leaving ends its calls."""
    shown = credentials or Credentials()
    async with channel(address, shown.tls, shown.token) as opened:
        yield _Client(address, opened)


class _Client:
    """What goes to many workers is serialised once, by whoever calls: these calls send bytes as they are."""

    def __init__(self, address: str, opened: grpc.aio.Channel) -> None:
        self._address, self._stub = address, DataPlaneServiceStub(opened)
        self._apply: Call[ApplyResponse] = opened.unary_unary(f"/{_SERVICE}/Apply", None, ApplyResponse.FromString)
        self._place: Call[PlaceResponse] = opened.unary_unary(f"/{_SERVICE}/Place", None, PlaceResponse.FromString)

    async def reports(self) -> AsyncGenerator[StatusReport, None]:
        met = False
        try:
            with translated(self._address):
                async for response in self._stub.Report(ReportRequest()):
                    met = True
                    yield response.report
        except Unavailable as error:
            if not met and await _refuses(self._address):
                raise Refused(error.reason, str(error)) from error
            raise

    async def apply(self, revision: Packed, timeout: float) -> RevisionAttempt:
        with translated(self._address):
            return (await self._apply(revision.request, timeout=timeout)).attempt

    async def place(self, placement: bytes, timeout: float) -> None:
        with translated(self._address):
            await self._place(placement, timeout=timeout)


async def _refuses(address: str) -> bool:
    """Whether the host says that nobody listens there. gRPC tells that in prose only, and of an attempt that may lie
    back a while."""
    loop, where = asyncio.get_running_loop(), Address.parse(address)
    try:
        async with asyncio.timeout(_PROBE):
            for family, kind, protocol, _, found in await loop.getaddrinfo(
                where.host, where.port, type=socket.SOCK_STREAM
            ):
                with socket.socket(family, kind, protocol) as probe:
                    probe.setblocking(False)
                    try:
                        await loop.sock_connect(probe, found)
                    except ConnectionRefusedError:
                        continue
                    return False
    except (OSError, TimeoutError):
        return False
    return True
