"""Sessions that are never idle: each asks again as soon as it is answered, through whichever gateway answers, and notes
when its tokens and its commits came."""

import asyncio
import bisect
import itertools
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.v1.agent_pb2 import ConverseRequest, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef

AGAIN = 0.05
"""Seconds until a client whose call failed asks the next gateway."""
CALL = 10.0
"""Seconds that a call may take until its client asks the next gateway."""


@dataclass
class Session:
    """What one client saw. Times are of time.monotonic()."""

    name: str
    tokens: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    """When each turn that was answered was asked for, in the order of `commits`."""

    def next_commit(self, after: float) -> float | None:
        """Seconds from then to the commit that came next."""
        return _next(self.commits, after)

    def next_token(self, after: float) -> float | None:
        return _next(self.tokens, after)

    def longest(self, begin: float, end: float) -> float:
        """Seconds that the longest turn took, of those that were under way in between; 0 where none was."""
        turns = zip(self.asked, self.commits, strict=False)
        return max((answered - asked for asked, answered in turns if answered >= begin and asked <= end), default=0.0)


@dataclass
class Busy:
    """All of them."""

    sessions: list[Session]

    async def went_on(self, after: float, within: float) -> None:
        """Wait until each has committed since. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while any(session.next_commit(after) is None for session in self.sessions):  # noqa: ASYNC110 - servers commit
                await asyncio.sleep(0.02)


@asynccontextmanager
async def busy(gateways: Sequence[str], agent: str, count: int, text: str, pause: float = 0.0) -> AsyncIterator[Busy]:
    """So many sessions of this agent that say `text`, `pause` seconds after each answer, until the block is left."""
    async with AsyncExitStack() as stack:
        stubs: list[Any] = [AgentServiceStub(await stack.enter_async_context(channel(address))) for address in gateways]
        all_ = Busy([Session(f"s{number}") for number in range(count)])
        async with asyncio.TaskGroup() as tasks:
            clients = [
                tasks.create_task(
                    _client(session, stubs[number % len(stubs) :] + stubs[: number % len(stubs)], agent, text, pause)
                )
                for number, session in enumerate(all_.sessions)
            ]
            yield all_
            for client in clients:
                client.cancel()


async def _client(session: Session, stubs: list[Any], agent: str, text: str, pause: float) -> None:
    gateways = itertools.cycle(stubs)
    stub = next(gateways)
    ref = SessionRef(agent=agent, session=session.name)
    while True:
        message = SendRequest(session=ref, message_id=uuid7(), content=Content(text=text))
        asked = time.monotonic()
        while not await _turn(stub, message, session):
            stub = next(gateways)
            await asyncio.sleep(AGAIN)
        session.asked.append(asked)
        session.commits.append(time.monotonic())
        await asyncio.sleep(pause)


async def _turn(stub: Any, message: SendRequest, session: Session) -> bool:
    """Whether it was answered."""
    try:
        async for response in stub.Converse(ConverseRequest(message=message), timeout=CALL):
            if response.event.HasField("token_delta"):
                session.tokens.append(time.monotonic())
            if response.event.HasField("failed"):
                raise AssertionError(f"{session.name}: {response.event.failed.error}")
            if response.event.HasField("completed"):
                return True
    except grpc.aio.AioRpcError:
        return False
    return False


def _next(times: list[float], after: float) -> float | None:
    place = bisect.bisect_right(times, after)
    return times[place] - after if place < len(times) else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]
