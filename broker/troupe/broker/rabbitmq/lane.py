"""Keeps one connection up: connects again whenever it is lost, with pauses that grow."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pika
import structlog

from troupe.broker import metrics
from troupe.broker.rabbitmq import errors, server
from troupe.broker.rabbitmq.link import Link
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable

PATIENCE = 10.0
"""Seconds that opening waits for a server that cannot be reached."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds between attempts; half of each pause is drawn by lot."""
UNHEARD = 3
"""Failures beyond which pauses do not grow where nobody listens: an attempt costs the host next to nothing, and a
server that starts listens as soon as it serves."""

log = structlog.get_logger()


def pause(failures: int, dice: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row, from 1. `dice` is uniform in [0, 1)."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 32)) * (0.5 + dice / 2)


def failed(failures: int, error: TroupeError) -> int:
    """How many failures in a row there are with this one, for `pause`."""
    return min(failures + 1, UNHEARD) if isinstance(error, errors.Unheard) else failures + 1


class Lane:
    """One connection after another."""

    def __init__(self, parameters: pika.ConnectionParameters) -> None:
        self._parameters = parameters
        self._link: Link | None = None
        self._changed = asyncio.Event()

    @property
    def present(self) -> Link | None:
        """The connection that is up now."""
        return self._link

    async def link(self) -> Link:
        """The connection, once there is one."""
        while self._link is None:
            await self._changed.wait()
        return self._link

    @contextlib.asynccontextmanager
    async def open(self, patience: float = PATIENCE) -> AsyncIterator[None]:
        """The first connection; on exit the present one is closed. Raises FailedPrecondition at once where waiting
        changes nothing, Unavailable after `patience` seconds."""
        try:
            await self._first(patience)
            yield
        finally:
            link = self._link
            self._drop()
            if link is not None:
                await link.leave()

    async def _first(self, patience: float) -> None:
        failures, error = 1, Unavailable("BROKER_AWAY", "RabbitMQ does not answer")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    try:
                        link = await Link.opened(self._parameters)
                    except Unavailable as unavailable:
                        error = unavailable
                        await asyncio.sleep(pause(failures, random.random()))
                        failures = failed(failures, error)
                    else:
                        self._take(link)
                        break
        if self._link is None:
            raise error
        server.check(self._link.server_properties)

    async def run(self, prepare: Callable[[Link], Awaitable[None]] | None = None) -> None:
        """While open: connect again whenever the connection is lost. `prepare` is called with each new one before
        anybody else gets it."""
        while True:
            assert self._link is not None
            error = await asyncio.shield(self._link.down)
            self._drop()
            log.warning("connection to the broker lost", connection=self._name, error=str(error))
            self._take(await self._again(prepare))
            metrics.RECONNECTS.inc()
            log.info("connected to the broker again", connection=self._name)

    async def _again(self, prepare: Callable[[Link], Awaitable[None]] | None) -> Link:
        failures = attempts = 1
        while True:
            await asyncio.sleep(pause(failures, random.random()))
            link: Link | None = None
            try:
                link = await Link.opened(self._parameters)
                server.check(link.server_properties)
                if prepare is not None:
                    await prepare(link)
            except TroupeError as error:
                if link is not None:
                    await link.leave()
                if attempts in (1, 10) or isinstance(error, FailedPrecondition):
                    log.warning("the broker cannot be reached", connection=self._name, error=str(error))
                failures, attempts = failed(failures, error), attempts + 1
            except asyncio.CancelledError:
                if link is not None:
                    link.abort()
                raise
            else:
                return link

    def _take(self, link: Link) -> None:
        self._link = link
        self._changed.set()

    def _drop(self) -> None:
        self._link = None
        self._changed.clear()

    @property
    def _name(self) -> object:
        return (self._parameters.client_properties or {}).get("connection_name")
