"""A gRPC server as every Troupe process runs one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

import grpc
import structlog
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from troupe.chassis import address, logs, rpc_options, rpc_tls, tls
from troupe.chassis.access.guard import Guard
from troupe.chassis.address import Address
from troupe.chassis.rpc_interceptors import Calls
from troupe.chassis.rpc_running import RunningCalls
from troupe.chassis.service import ServiceSettings

log = structlog.get_logger()

_CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name

_HEALTH_NEWS = 1.0
"""Seconds that those who watch the health get to hear that it ends."""

Register = Callable[[grpc.aio.Server], Iterable[str]]
"""Adds servicers to a server and gives the full names of their services, such as `troupe.v1.AgentService`."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers calls."""

    address: str
    """`host:port` really bound; the host is the one that the settings name, `localhost` as 127.0.0.1."""
    _health: health.aio.HealthServicer

    async def set_health(self, service: str, serving: bool) -> None:
        """What health checks hear about `service`, or with "" about the process as a whole. All start out as
        serving; nothing changes any more once the server stops."""
        await self._health.set(service, _health_status(serving))


@contextlib.asynccontextmanager
async def serving(settings: ServiceSettings, register: Register, guard: Guard | None = None) -> AsyncIterator[Serving]:
    """Serve what `register` adds, with health, reflection and channelz, at `settings.listen`.

    `guard` is asked about every call; without one everybody may do everything. Entering returns when
    calls are answered. Leaving turns health off, refuses new calls, ends streams, lets unary calls finish for
    `stop_grace` seconds and then ends them too; all of these answer UNAVAILABLE, reason STOPPING.
    Raises InvalidArgument (TLS_REQUIRED, BAD_TLS) and FailedPrecondition (PORT_IN_USE, CANNOT_LISTEN).
    """
    certificates = tls.guarding(settings, settings.listen)
    running = RunningCalls()
    server = grpc.aio.server(interceptors=[Calls(running, guard)], options=rpc_options.SERVER)
    services = [*register(server), health.SERVICE_NAME]
    checks = await _added(server, services)
    bound = _listening(server, settings, certificates)
    with logs.within(settings.service):
        await server.start()
        log.info("serving", listen=str(bound), tls=certificates is not None)
    try:
        yield Serving(str(bound), checks)
    finally:
        with contextlib.suppress(TimeoutError):  # it waits for watchers to take the news, and one may not be reading
            async with asyncio.timeout(_HEALTH_NEWS):
                await checks.enter_graceful_shutdown()
        async with asyncio.TaskGroup() as group:
            group.create_task(server.stop(settings.stop_grace + 1))
            group.create_task(running.finish(settings.stop_grace))


async def _added(server: grpc.aio.Server, services: list[str]) -> health.aio.HealthServicer:
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for service in services:
        await checks.set(service, _health_status(serving=True))
    channelz.add_channelz_servicer(server)
    reflection.enable_server_reflection([*services, _CHANNELZ, reflection.SERVICE_NAME], server)
    return checks


def _listening(server: grpc.aio.Server, settings: ServiceSettings, certificates: tls.Certificates | None) -> Address:
    credentials = rpc_tls.server_credentials(certificates) if certificates else None

    def attempt(wanted: Address) -> Address:
        # gRPC writes several lines to stderr about a port that it does not get, and says nowhere why.
        address.bind(wanted).close()
        if credentials is None:
            port = server.add_insecure_port(str(wanted))
        else:
            port = server.add_secure_port(str(wanted), credentials)
        return Address(wanted.host, port)

    return address.bound(settings.listen, attempt, asked="listen" in settings.model_fields_set)


def _health_status(serving: bool) -> health_pb2.HealthCheckResponse.ServingStatus:
    known = health_pb2.HealthCheckResponse
    return known.SERVING if serving else known.NOT_SERVING
