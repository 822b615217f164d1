"""The product gets to every fault point of the table, and to none that is not in it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from support.fleets import actor
from support.recording_actor import STARTS, Operation
from support.up import FIRST_FLEET, in_process
from support.worker_fleet import Member, WorkerFleet, worker_fleet

from troupe.broker.addressing import SessionKey
from troupe.chassis import fault_points
from troupe.chassis.rpc_client import channel
from troupe.chassis.wire import duration, timestamp
from troupe.v1 import agent_pb2, envelope_pb2, turn_pb2
from troupe.v1.agent_pb2 import ControlTurnsRequest, ConverseRequest, GetMessageRequest, MessageRef, SendRequest, Verb
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, Envelope, SessionRef
from troupe.v1.promise_pb2 import PromiseRef, ResolveRequest
from troupe.v1.resource_pb2 import ActorSpec
from troupe.v1.turn_pb2 import Fate

RECORDER = actor("recorder", ActorSpec(entry_point="support.recording_actor:Recorder"))
ASKER = actor("asker", ActorSpec(entry_point="support.asking_actor:Asker"))


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The points that this process gets to, inside the block."""
    points: set[str] = set()
    with patch.object(fault_points, "reach", points.add):
        yield points


async def test_every_point_of_the_table_is_reached_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    with recorded() as points:
        async with worker_fleet(tmp_path / "fleet", "a", "b", resources=[RECORDER, ASKER], order_timeout=0.5) as fleet:
            await settle_everything(fleet)
            await wait_for_everything(fleet.members["a"])
            await hand_over_and_take_over(fleet)
        async with in_process(tmp_path / "one", FIRST_FLEET) as gateway, channel(gateway) as connection:
            message = SendRequest(session=SessionRef(agent="clerk", session="s"), content=Content(text="What is 6*7?"))
            async for _ in AgentServiceStub(connection).Converse(ConverseRequest(message=message)):
                pass

    assert points == set(fault_points.POINTS)


async def settle_everything(fleet: WorkerFleet) -> None:
    """Messages that send others, are tried again, are given up, wait, come after a number that never comes, and come
    again."""
    a = fleet.members["a"]
    for name, operation in (
        ("sends", Operation("c", 1, forwards=["other"])),
        ("flaky", Operation("c", 1, fails=1)),
        ("hopeless", Operation("c", 1, hopeless=True)),
        ("busy", Operation("c", 1, seconds=0.3)),
        ("busy", Operation("c", 2)),
    ):
        await sent(a, name, operation)
    late = Operation("c", 2)
    await fleet.broker.publish(numbered("gap", 2, late))
    for name, message_id in (("flaky", "c-1"), ("hopeless", "c-1"), ("busy", "c-2"), ("gap", "c-2")):
        await ended(a, name, message_id)
    await sent(a, "flaky", Operation("c", 1, fails=1))  # a copy, whose record is read
    await sent(a, "flaky", Operation("c", 2))
    await ended(a, "flaky", "c-2")


async def wait_for_everything(member: Member) -> None:
    """Messages that wait for a promise, for RESUME, and for their time, and one that is cancelled while it runs."""
    await asked(member, "asks", "ask")
    resolve = ResolveRequest(
        promise=PromiseRef(session=asker("asks"), promise_id="m/answer"), value=Content(text="yes")
    )
    async with asyncio.timeout(10):
        while not await found(member, resolve):  # noqa: ASYNC110 - it tells when asked
            await asyncio.sleep(0.05)
    await controlled(member, agent_pb2.VERB_PAUSE, "paused")
    await asked(member, "paused", "hello")
    await stands(member, "paused", turn_pb2.FATE_PAUSED)
    await controlled(member, agent_pb2.VERB_RESUME, "paused")
    await asked(member, "later", "hello", deliver_after=duration(0.2))
    for session in ("asks", "paused", "later"):
        await stands(member, session, turn_pb2.FATE_DONE)
    await asked(member, "runs", "work")
    await stands(member, "runs", turn_pb2.FATE_RUNNING)
    await controlled(member, agent_pb2.VERB_CANCEL, "runs")
    await stands(member, "runs", turn_pb2.FATE_CANCELLED)


def asker(session: str) -> SessionRef:
    return SessionRef(agent="asker", session=session)


async def asked(member: Member, session: str, text: str, **more: Any) -> None:
    await member.agents.Send(SendRequest(session=asker(session), message_id="m", content=Content(text=text), **more))


async def controlled(member: Member, verb: "Verb.ValueType", session: str) -> None:
    message = MessageRef(session=asker(session), message_id="m")
    await anext(aiter(member.agents.ControlTurns(ControlTurnsRequest(verb=verb, messages=[message]))))


async def stands(member: Member, session: str, fate: "Fate.ValueType") -> None:
    """Wait until the message does."""
    get = GetMessageRequest(session=asker(session), message_id="m")
    async with asyncio.timeout(10):
        while (await member.agents.GetMessage(get)).status.fate != fate:  # noqa: ASYNC110 - it tells when asked
            await asyncio.sleep(0.05)


async def found(member: Member, resolve: ResolveRequest) -> bool:
    """Whether there was a promise to resolve; it is resolved then."""
    try:
        await member.worker.promises.Resolve(resolve)
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        return False
    return True


async def hand_over_and_take_over(fleet: WorkerFleet) -> None:
    """A message runs on under the mark of a worker that gave up its shard, and the new owner does not wait for it."""
    a, b = fleet.members["a"], fleet.members["b"]
    await sent(a, "long", Operation("c", 1, seconds=1.5))
    long = agent_pb2.GetSessionRequest(session=SessionRef(agent="recorder", session="long"))
    running = agent_pb2.SESSION_STATE_RUNNING
    async with asyncio.timeout(10):
        while (await a.agents.GetSession(long)).session.state != running:  # noqa: ASYNC110 - it tells when asked
            await asyncio.sleep(0.02)
    shards = range(4)
    await fleet.place({}, revoked=shards, live=[a, b])
    async with asyncio.timeout(10):
        while (await a.worker.report()).shards:  # noqa: ASYNC110 - it tells when asked
            await asyncio.sleep(0.02)
    await fleet.give_all(b, live=[b])
    await ended(b, "long", "c-1")


async def sent(member: Member, session: str, operation: Operation) -> None:
    request = SendRequest(
        session=SessionRef(agent="recorder", session=session),
        message_id=f"{operation.sender}-{operation.number}",
        content=Content(text=operation.text()),
    )
    await member.agents.Send(request, timeout=10)


async def ended(member: Member, session: str, message_id: str) -> None:
    request = GetMessageRequest(
        session=SessionRef(agent="recorder", session=session), message_id=message_id, wait=duration(20)
    )
    status = (await member.agents.GetMessage(request, timeout=30)).status
    assert status.fate in (turn_pb2.FATE_DONE, turn_pb2.FATE_DEAD), f"{session} {message_id}: {status}"


def numbered(session: str, sequence: int, operation: Operation) -> Envelope:
    """As the gateway of nobody would number it."""
    key = SessionKey("default", "default", "recorder", session)
    now = time.time()
    return Envelope(
        id=f"{operation.sender}-{operation.number}",
        target=key.ref(),
        number=envelope_pb2.Number(stream="of a gateway that is gone", sequence=sequence),
        kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
        content=Content(text=operation.text()),
        first_sent=timestamp(now),
        expires=timestamp(now + 3600),
    )
