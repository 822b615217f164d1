"""Calls to the gateways, each repeated at another one until it is answered."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import grpc
from fault.chaos.history import Answer, Sent
from fault.chaos.operations import PROMISE, READ, Kind, State, agent_of

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.chassis.wire import duration
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import (
    ControlTurnsRequest,
    ConverseRequest,
    GetMessageRequest,
    MessageRef,
    MessageStatus,
    SendRequest,
    Verb,
    VerbAnswer,
)
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.dead_letter_pb2_grpc import DeadLetterServiceStub
from troupe.v1.envelope_pb2 import Content, Data, SessionRef
from troupe.v1.promise_pb2 import PromiseRef, ResolveRequest, SettlementAnswer
from troupe.v1.promise_pb2_grpc import PromiseServiceStub
from troupe.v1.turn_pb2 import Fate

T = TypeVar("T")

FINAL: Final = frozenset(
    {
        turn_pb2.FATE_DONE,
        turn_pb2.FATE_DEAD,
        turn_pb2.FATE_EXPIRED,
        turn_pb2.FATE_SKIPPED,
        turn_pb2.FATE_CANCELLED,
        turn_pb2.FATE_REJECTED,
    }
)
MISTAKES: Final = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.ALREADY_EXISTS}
)
"""What no client gets that does nothing wrong: these end the run."""
PATIENCE: Final = (0.5, 1.0, 3.0)
"""Seconds that a client waits for one call."""
GRACE: Final = 2.0
"""Seconds beyond the wait that it asked for until it asks another gateway."""


@dataclass(frozen=True, slots=True)
class Stubs:
    """Of one gateway."""

    agents: Any
    promises: Any
    letters: Any


@dataclass
class Client:
    """Make one with `calling`."""

    gateways: list[str]
    stubs: dict[str, Stubs]
    dice: random.Random
    errors: Counter[str] = field(default_factory=Counter)
    """Calls that failed, by code."""

    def any(self) -> str:
        """Some gateway."""
        return self.dice.choice(self.gateways)

    async def answered(self, call: Callable[[Stubs], Awaitable[T]]) -> T:
        """What some gateway answers, in the end."""
        while True:
            try:
                return await call(self.stubs[self.any()])
            except grpc.aio.AioRpcError as error:
                await self.failed(error)

    async def failed(self, error: grpc.aio.AioRpcError) -> None:
        """Note it, and wait a little. Raises it where it is the client's own mistake."""
        if error.code() in MISTAKES:
            raise error
        self.errors[error.code().name] += 1
        await asyncio.sleep(self.dice.uniform(0.05, 0.5))

    async def offer(self, gateway: str, one: Sent) -> Answer | None:
        """Hand the message over; its end, where the call brings that. Raises AioRpcError where it may not have been
        accepted."""
        stub = self.stubs[gateway].agents
        within = self.dice.choice(PATIENCE)
        request = SendRequest(
            session=_ref(one.session), message_id=one.message_id, content=Content(text=one.operation.text())
        )
        if one.operation.kind is Kind.LATER:
            request.deliver_after.CopyFrom(duration(one.operation.delay))
        eager = one.operation.kind is Kind.EAGER
        if eager:
            request.on_busy = agent_pb2.ON_BUSY_REJECT
        way = self.dice.randrange(4)
        if way == 0 or eager:
            request.wait.CopyFrom(duration(within))
            return _answer((await stub.Send(request, timeout=within + GRACE)).status)
        if way == 1:
            return await self._converse(stub, request, within)
        await stub.Send(request, timeout=within)
        return None

    async def _converse(self, stub: Any, request: SendRequest, within: float) -> Answer | None:
        """None where it was accepted and the stream broke off."""
        accepted = False
        try:
            async for response in stub.Converse(ConverseRequest(message=request), timeout=within):
                event = response.event
                accepted = accepted or event.HasField("accepted")
                if event.HasField("completed"):
                    return Answer("DONE", event.completed.result.text)
                if event.HasField("failed"):
                    return Answer(_word(Fate, event.failed.fate), event.failed.error.reason)
        except grpc.aio.AioRpcError as error:
            if not accepted:
                raise
            await self.failed(error)
        return None

    async def end(self, session: str, message_id: str) -> Answer:
        """What became of it, once it has come to its end."""
        while True:
            within = self.dice.choice(PATIENCE)
            if (answer := _answer(await self._status(session, message_id, within))) is not None:
                return answer

    async def fate(self, session: str, message_id: str) -> str:
        """Where it stands now."""
        return _word(Fate, (await self._status(session, message_id, 0.0)).fate)

    async def _status(self, session: str, message_id: str, within: float) -> MessageStatus:
        request = GetMessageRequest(session=_ref(session), message_id=message_id, wait=duration(within))

        async def ask(stubs: Stubs) -> MessageStatus:
            return (await stubs.agents.GetMessage(request, timeout=within + GRACE)).status  # type: ignore[no-any-return]

        return await self.answered(ask)

    async def control(self, verb: Verb.ValueType, session: str, message_id: str) -> str:
        """What the verb was answered, in the end."""
        request = ControlTurnsRequest(
            verb_id=uuid7(), verb=verb, messages=[MessageRef(session=_ref(session), message_id=message_id)]
        )

        async def ask(stubs: Stubs) -> str:
            (answer,) = [one.answer async for one in stubs.agents.ControlTurns(request, timeout=5)]
            return _word(VerbAnswer, answer)

        return await self.answered(ask)

    async def resolve(self, session: str, message_id: str, value: int) -> str:
        """Give the message's promise a value, once there is one; what that was answered."""
        request = ResolveRequest(
            promise=PromiseRef(session=_ref(session), promise_id=f"{message_id}/{PROMISE}"),
            settlement_id=uuid7(),
            value=Content(data=Data(content_type="application/json", value=str(value).encode())),
        )

        async def ask(stubs: Stubs) -> str:
            return _word(SettlementAnswer, (await stubs.promises.Resolve(request, timeout=5)).answer)

        return await self.answered(ask)

    async def read(self, session: str) -> State:
        """All that the session has."""
        request = SendRequest(session=_ref(session), content=Content(text=READ), wait=duration(30))

        async def ask(stubs: Stubs) -> MessageStatus:
            request.message_id = uuid7()
            return (await stubs.agents.Send(request, timeout=40)).status  # type: ignore[no-any-return]

        while True:
            status = await self.answered(ask)
            if status.fate == turn_pb2.FATE_DONE:
                return State.read(status.result.text)


@asynccontextmanager
async def calling(gateways: Sequence[str], dice: random.Random) -> AsyncIterator[Client]:
    """A client of the gateways at these addresses, which may come and go."""
    async with AsyncExitStack() as stack:
        stubs = {}
        for address in gateways:
            connection: Any = await stack.enter_async_context(channel(address))
            stubs[address] = Stubs(
                AgentServiceStub(connection), PromiseServiceStub(connection), DeadLetterServiceStub(connection)
            )
        yield Client(list(gateways), stubs, dice)


def _answer(status: MessageStatus) -> Answer | None:
    if status.fate not in FINAL:
        return None
    done = status.fate == turn_pb2.FATE_DONE
    return Answer(_word(Fate, status.fate), status.result.text if done else status.error.reason)


def _word(enum: Any, value: int) -> str:
    """Its name, without what all names of the enum begin with."""
    return str(enum.Name(value)).removeprefix(PREFIXES[enum])


PREFIXES: Final = {Fate: "FATE_", VerbAnswer: "VERB_ANSWER_", SettlementAnswer: "SETTLEMENT_ANSWER_"}


def _ref(session: str) -> SessionRef:
    return SessionRef(agent=agent_of(session), session=session)
