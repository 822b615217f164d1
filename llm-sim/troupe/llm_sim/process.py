"""The simulator as a service: from settings to an address that answers, and back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from troupe.chassis.clock import Clock, SystemClock
from troupe.llm_sim.http.application import Routes
from troupe.llm_sim.http.listener import listening
from troupe.llm_sim.settings import LlmSimSettings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LlmSim:
    """A simulator that serves. `address` is the `host:port` really bound, `url` what clients call their base URL."""

    address: str
    url: str


@asynccontextmanager
async def running(settings: LlmSimSettings, clock: Clock | None = None) -> AsyncIterator[LlmSim]:
    """Serve until the block is left; inside it, the simulator answers.

    Leaving refuses what is new, lets answers on their way out go on for `stop_grace` seconds and cuts the rest. Raises
    FailedPrecondition when it cannot listen: a taken port moves on to the next free one, unless `listen` was given.
    """
    stopping = asyncio.Event()
    routes = Routes(settings, clock or SystemClock(), stopping)
    async with listening(routes.application(), settings, stopping) as bound:
        log.info("simulator serves", url=bound.url, models=settings.models)
        yield LlmSim(bound.address, bound.url)
    log.info("simulator stopped")
