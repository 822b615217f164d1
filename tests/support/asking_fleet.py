"""A worker with actors that ask for values from outside, and a client of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from support import asking_actor
from support.asking_actor import DONE, TOKENS
from support.fleets import actor, tool
from support.serving_worker import ServingWorker, config, serving_worker

from troupe.chassis.rpc_client import translated
from troupe.chassis.wire import duration
from troupe.v1 import agent_pb2 as pb
from troupe.v1.agent_pb2 import MessageRef, SendRequest
from troupe.v1.agent_pb2 import VerbAnswer as Answer
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec, PythonTool, ToolSpec

ASKER = actor("asker", ActorSpec(entry_point="support.asking_actor:Asker", tools=["book", "leave"]))
TOOLS = [
    tool(name, ToolSpec(python=PythonTool(entry_point=f"support.asking_actor:{name}"))) for name in ("book", "leave")
]
OTHER = actor("other", ActorSpec(entry_point="support.asking_actor:Asker"))


class Client:
    """Of one worker."""

    def __init__(self, worker: ServingWorker) -> None:
        self.agents, self.letters, self.promises = worker.agents, worker.letters, worker.promises

    async def send(
        self, text: str, message_id: str, session: str = "s", agent: str = "asker", **parts: Any
    ) -> pb.MessageStatus:
        request = SendRequest(
            session=SessionRef(agent=agent, session=session), message_id=message_id, content=Content(text=text), **parts
        )
        with translated():
            return (await self.agents.Send(request)).status

    async def status(self, message_id: str, session: str = "s", wait: float = 0.0) -> pb.MessageStatus:
        request = pb.GetMessageRequest(
            session=SessionRef(agent="asker", session=session), message_id=message_id, wait=duration(wait)
        )
        return (await self.agents.GetMessage(request)).status

    async def stands(self, message_id: str, fate: int, session: str = "s") -> pb.MessageStatus:
        async with asyncio.timeout(10):
            while (found := await self.status(message_id, session)).fate != fate:  # noqa: ASYNC110 - it is out there
                await asyncio.sleep(0.01)
        return found

    async def control(self, verb: str, *message_ids: str, session: str = "s", **parts: Any) -> list[str]:
        refs = [MessageRef(session=SessionRef(agent="asker", session=session), message_id=one) for one in message_ids]
        return [one[1] for one in await self.controlled(verb, messages=refs, **parts)]

    async def controlled(self, verb: str, **parts: Any) -> list[tuple[str, str]]:
        request = pb.ControlTurnsRequest(verb=pb.Verb.Value(f"VERB_{verb}"), **parts)
        with translated():
            return [
                (
                    f"{one.message.session.agent}/{one.message.session.session}/{one.message.message_id}",
                    Answer.Name(one.answer).removeprefix("VERB_ANSWER_"),
                )
                async for one in self.agents.ControlTurns(request)
            ]

    async def selected(self, verb: str = "CANCEL", session: SessionRef | None = None, **parts: Any) -> list[str]:
        """Names of what the selector means; by default, without doing anything."""
        selector = pb.TurnSelector(session=session, fates=parts.pop("fates", ()), attributes=parts.pop("having", {}))
        dry_run = parts.pop("dry_run", True)
        return sorted(name for name, _ in await self.controlled(verb, selector=selector, dry_run=dry_run, **parts))


@asynccontextmanager
async def asking_fleet(directory: Path) -> AsyncIterator[Client]:
    """Nothing is made, done or let go on before."""
    TOKENS.clear()
    DONE.clear()
    # An event is of the loop in which it was first waited for.
    with mock.patch.object(asking_actor, "OPEN", asyncio.Event()):
        async with serving_worker(directory) as worker:
            await worker.apply(config(1, ASKER, OTHER, *TOOLS))
            await worker.place()
            yield Client(worker)
