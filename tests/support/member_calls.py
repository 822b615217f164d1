"""Calls of a client to one worker of a fleet."""

import asyncio
from typing import Any

from support.hosting import until
from support.worker_fleet import Member

from troupe.chassis.errors import TroupeError
from troupe.chassis.rpc_client import translated
from troupe.chassis.wire import duration
from troupe.dataplane import peers
from troupe.v1 import agent_pb2 as pb
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.turn_pb2 import Event

RELAYED = (peers.RELAYED,)
REF = SessionRef(agent="counter", session="s")


def message(text: str = "hello", **parts: Any) -> SendRequest:
    return SendRequest(session=parts.pop("session", REF), content=Content(text=text), **parts)


class Stream:
    """A call that streams events, read beside the test."""

    def __init__(self, call: Any) -> None:
        self.events: list[Event] = []
        self.error: TroupeError | None = None
        self._call = call
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            with translated():
                async for response in self._call:
                    self.events.append(response.event)
        except TroupeError as error:
            self.error = error

    @property
    def kinds(self) -> list[str]:
        return [str(event.WhichOneof("kind")) for event in self.events]

    async def has(self, kind: str, times: int = 1) -> None:
        await until(lambda: self.kinds.count(kind) >= times)

    async def end(self) -> Event:
        async with asyncio.timeout(15):
            await self._task
        assert self.error is None, str(self.error)
        return self.events[-1]

    async def leave(self) -> None:
        self._call.cancel()
        await asyncio.wait([self._task])


def converse(member: Member, text: str = "hello", **parts: Any) -> Stream:
    return Stream(member.agents.Converse(pb.ConverseRequest(message=message(text, **parts))))


async def send(member: Member, text: str = "hello", wait: float = 5.0, **parts: Any) -> pb.MessageStatus:
    with translated():
        return (await member.agents.Send(message(text, wait=duration(wait), **parts), timeout=15)).status


async def get(member: Member, message_id: str = "m", wait: float = 0.0) -> pb.MessageStatus:
    request = pb.GetMessageRequest(session=REF, message_id=message_id, wait=duration(wait))
    return (await member.agents.GetMessage(request, timeout=15)).status


async def session(member: Member) -> pb.Session:
    with translated():
        return (await member.agents.GetSession(pb.GetSessionRequest(session=REF))).session
