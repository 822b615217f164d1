"""What a worker calls: the control plane, to join and to stay."""

import structlog

from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.chassis.rpc_client import ClientTls, channel, translated
from troupe.chassis.wire import seconds
from troupe.v1.control_plane_pb2 import RegisterRequest
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub

RETRY = 1.0
"""Seconds until a refused or unanswered registration is tried again."""

log = structlog.get_logger()


async def stay_registered(server: str, request: RegisterRequest, clock: Clock, tls: ClientTls | None = None) -> None:
    """Register at the control plane and renew the lease, for ever. The worker works on while nobody answers."""
    answered: bool | None = None
    async with channel(server, tls) as connection:
        stub = ControlPlaneServiceStub(connection)
        while True:
            try:
                with translated(server):
                    response = await stub.Register(request)
            except TroupeError as error:
                if answered is not False:
                    log.warning("control plane not reached, working on without it", server=server, error=str(error))
                answered = False
                await clock.sleep(RETRY)
            else:
                if not answered:
                    log.info("registered", server=server, worker=request.worker_id)
                answered = True
                await clock.sleep(seconds(response.renew_after) or RETRY)
