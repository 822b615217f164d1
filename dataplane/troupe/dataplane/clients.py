"""What a worker calls: the control plane, to join and to stay."""

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from troupe.chassis.clock import Clock
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.chassis.rpc_client import Credentials, channel, translated
from troupe.chassis.servers import Servers, is_elsewhere
from troupe.chassis.wire import seconds
from troupe.dataplane import metrics
from troupe.v1.control_plane_pb2 import RegisterRequest, RegisterResponse
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub

RETRY: Final = 1.0
"""Seconds until a registration is tried again that nobody took."""
ANSWER: Final = 4.0
"""Seconds that a control plane gets to answer: one that hangs must not cost the lease."""

log = structlog.get_logger()


class Registration:
    """Keeps a worker's process registered with the control plane that leads. One object for one process.

    `term` is the newest that the worker knows from elsewhere: an older leader, one that does not know yet that it is
    none any more, is passed over."""

    def __init__(
        self,
        named: Sequence[str],
        request: RegisterRequest,
        clock: Clock,
        credentials: Credentials | None = None,
        term: Callable[[], int] = lambda: 0,
    ) -> None:
        self._servers, self._request, self._clock, self._term = Servers(named), request, clock, term
        self._shown = credentials or Credentials()
        self._newest = 0
        self._said = ""

    async def run(self) -> TroupeError:
        """Register, and renew the lease. The worker works on while nobody answers. Returns only where another process
        has taken this one's place: what the control plane says of that."""
        while True:
            address = self._servers.address
            async with channel(address, self._shown.tls, self._shown.token) as connection:
                stub = ControlPlaneServiceStub(connection)
                while self._servers.address == address:
                    try:
                        response = await self._registered(stub.Register, address)
                    except FailedPrecondition as error:
                        if error.reason == "REPLACED":
                            log.error("control plane has another process of this worker", error=str(error))
                            return error
                        wait = self._failed(error)
                    except TroupeError as error:
                        wait = self._failed(error)
                    else:
                        wait = self._answered(response)
                    await self._clock.sleep(wait)

    async def _registered(self, register: Callable[..., object], address: str) -> RegisterResponse:
        with translated(address):
            response: RegisterResponse = await register(self._request, timeout=ANSWER)  # type: ignore[misc]
        newest = max(self._newest, self._term())
        if 0 < response.term < newest:
            raise Unavailable(
                "OLD_LEADER", f"{address} leads in term {response.term}, and there is a leader of {newest}"
            )
        self._newest = max(newest, response.term)
        return response

    def _answered(self, response: RegisterResponse) -> float:
        address = self._servers.address
        if self._said != address:
            log.info("registered", server=address, worker=self._request.worker_id, term=response.term)
            self._said = address
        self._servers.answered()
        metrics.REGISTERED.set(1)
        return seconds(response.renew_after) or RETRY

    def _failed(self, error: TroupeError) -> float:
        """Seconds until the next try."""
        address = self._servers.address
        at_once = is_elsewhere(error) and self._servers.failed(error)
        if at_once:
            return 0.0
        metrics.REGISTERED.set(0)
        if self._said != error.reason:
            log.warning(
                "control plane does not take this worker, working on without it", server=address, error=str(error)
            )
            self._said = error.reason
        return max(RETRY, error.retry_after or 0.0)
