"""The model of the measured agent: the simulator, in this process, and how long each answer of it really took."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from troupe.chassis.clock import SystemClock
from troupe.llm_sim.http.application import Routes
from troupe.llm_sim.http.listener import listening
from troupe.llm_sim.settings import LlmSimSettings

_NAME = re.compile(rb'"(\d{8})\\"')
"""What a conversation asks for, in the JSON in a request's JSON. The newest comes last."""


@dataclass(frozen=True, slots=True)
class Model:
    """`took` has the seconds of all answers of each conversation, from the begin of a request's handling to the last
    byte of its answer, by what the conversation asked for. A request that waited for a processor before it was handled
    is not late by this."""

    url: str
    took: defaultdict[str, float]


@asynccontextmanager
async def serving(settings: LlmSimSettings) -> AsyncIterator[Model]:
    """Serve until the block is left."""
    took: defaultdict[str, float] = defaultdict(float)

    @web.middleware
    async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        response = await handler(request)
        ended = time.perf_counter()
        *_, name = _NAME.findall(await request.read())
        took[name.decode()] += ended - began
        return response

    stopping = asyncio.Event()
    application = Routes(settings, SystemClock(), stopping).application()
    application.middlewares.insert(0, timed)
    async with listening(application, settings, stopping) as bound:
        yield Model(bound.url, took)
