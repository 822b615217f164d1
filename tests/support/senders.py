"""Senders that write to many sessions whatever befalls the fleet, and what must hold of what they wrote: nothing
confirmed is lost, nothing takes effect twice, each sender's messages take effect in its order."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from support.recording_actor import READ, Applied, Operation

from troupe.chassis.rpc_client import channel
from troupe.chassis.wire import duration
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetMessageRequest, MessageStatus, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef


class Gateway(Protocol):
    """A worker's process."""

    @property
    def address(self) -> str: ...

    @property
    def serves(self) -> bool: ...

    @property
    def key(self) -> str:
        """Its own, among all processes of the test."""
        ...


@dataclass
class Sent:
    """One operation, and the processes that it was given to."""

    session: str
    operation: Operation
    gateways: set[str] = field(default_factory=set)
    confirmed: bool = False


class Senders:
    """All of them, and what they know. `gateway` gives any process that may be asked; `pause` is the most that a
    sender waits between two messages, in seconds."""

    def __init__(
        self, gateway: Callable[[], Gateway], dice: random.Random, *, sessions: int, each: int, pause: float
    ) -> None:
        self._gateway, self._dice, self._each, self._pause = gateway, dice, each, pause
        self.sessions = [f"s{number}" for number in range(sessions)]
        self.sent: dict[str, Sent] = {}
        """By message id."""

    async def write(self, sender: str) -> None:
        """One sender: each message is confirmed before the next is sent, by the same worker while that answers."""
        numbers: defaultdict[str, int] = defaultdict(int)
        gateway = self._gateway()
        for count in range(self._each):
            target = self._dice.choice(self.sessions)
            numbers[target] += 1
            message_id = f"{sender}-{count}"
            sent = self.sent[message_id] = Sent(target, self._operation(sender, numbers[target]))
            while not sent.confirmed:
                sent.gateways.add(gateway.key)
                sent.confirmed = await self._sends(gateway, message_id, sent)
                if not sent.confirmed:
                    await asyncio.sleep(self._dice.uniform(0.05, 0.5))
                    gateway = gateway if gateway.serves and self._dice.random() < 0.5 else self._gateway()
            await asyncio.sleep(self._dice.uniform(0.0, self._pause))

    async def _sends(self, gateway: Gateway, message_id: str, sent: Sent) -> bool:
        if not gateway.serves:
            return False
        request = SendRequest(
            session=_ref(sent.session), message_id=message_id, content=Content(text=sent.operation.text())
        )
        try:
            async with channel(gateway.address) as connection:
                stub: Any = AgentServiceStub(connection)
                await stub.Send(request, timeout=self._dice.choice((1.0, 5.0, 15.0)))
        except grpc.aio.AioRpcError:
            return False
        return True

    def _operation(self, sender: str, number: int) -> Operation:
        chance = self._dice.random()
        return Operation(
            sender,
            number,
            seconds=self._dice.choice((0.0, 0.0, 0.02, 0.3)),
            fails=self._dice.choice((1, 2)) if chance < 0.15 else 0,
            hopeless=0.15 <= chance < 0.2,
            forwards=[self._dice.choice(self.sessions) for _ in range(2)] if 0.2 <= chance < 0.5 else [],
        )

    async def check(self, gateway: Gateway) -> None:
        """Wait, at a process that stays, until all has come to its end. Then all of what the module's text says holds,
        for what sessions sent each other too."""
        async with channel(gateway.address) as connection:
            fates = await self._ends(AgentServiceStub(connection))
            applied = await self._applied(AgentServiceStub(connection))
        self._check_effects(fates, applied)
        self._check_order(applied)
        self._check_forwards(applied)

    async def _ends(self, stub: Any) -> dict[str, MessageStatus]:
        async def end(message_id: str, sent: Sent) -> MessageStatus:
            request = GetMessageRequest(session=_ref(sent.session), message_id=message_id, wait=duration(60))
            return (await stub.GetMessage(request, timeout=70)).status  # type: ignore[no-any-return]

        statuses = await asyncio.gather(*(end(message_id, sent) for message_id, sent in self.sent.items()))
        return dict(zip(self.sent, statuses, strict=True))

    async def _applied(self, stub: Any) -> dict[str, Applied]:
        """What each session has applied, once none of them has anything on its way to another."""

        async def read(name: str) -> Applied:
            request = SendRequest(session=_ref(name), content=Content(text=READ), wait=duration(30))
            return Applied.read((await stub.Send(request, timeout=40)).status.result.text)

        async with asyncio.timeout(60):
            while True:
                found = dict(zip(self.sessions, await asyncio.gather(*map(read, self.sessions)), strict=True))
                sent = sum(sum(one.sent.values()) for one in found.values())
                came = sum(sender.startswith("session ") for one in found.values() for sender, _ in one.operations)
                if sent == came:
                    return found
                await asyncio.sleep(0.5)

    def _check_effects(self, fates: dict[str, MessageStatus], applied: dict[str, Applied]) -> None:
        for message_id, sent in self.sent.items():
            operation, status = sent.operation, fates[message_id]
            times = applied[sent.session].operations.count((operation.sender, operation.number))
            if operation.hopeless:
                assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "HOPELESS"), f"{message_id}: {status}"
                assert times == 0, f"{message_id} was given up and took effect"
            else:
                assert status.fate == turn_pb2.FATE_DONE, f"{message_id}: {status}"
                assert times == 1, f"{message_id} took effect {times} times"

    def _check_order(self, applied: dict[str, Applied]) -> None:
        """One sender's messages by way of one process, to one session."""
        ways = {
            (sent.operation.sender, sent.session, sent.operation.number): next(iter(sent.gateways))
            for sent in self.sent.values()
            if len(sent.gateways) == 1
        }
        for name, one in applied.items():
            came: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
            for sender, number in one.operations:
                if (sender, name, number) in ways:
                    came[sender, ways[sender, name, number]].append(number)
            for (sender, _), numbers in came.items():
                assert numbers == sorted(numbers), f"{sender} to {name} came as {numbers}"

    def _check_forwards(self, applied: dict[str, Applied]) -> None:
        """What sessions sent each other came whole, once and in order."""
        assert any(sent.operation.forwards for sent in self.sent.values())
        for source, one in applied.items():
            for target, count in one.sent.items():
                came = [number for sender, number in applied[target].operations if sender == f"session {source}"]
                assert came == list(range(1, count + 1)), f"{source} to {target}: {came}, not 1 to {count}"


def _ref(session: str) -> SessionRef:
    return SessionRef(agent="recorder", session=session)
