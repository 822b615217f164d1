"""kill -9 of `troupe up`, again and again, in the middle of conversations: nothing confirmed is lost, nothing acts
twice, every session goes on in order."""

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path

import grpc
import pytest
from support.up import Up, up

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.chassis.wire import duration
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import ConverseRequest, GetMessageRequest, GetSessionRequest, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef

SESSIONS, MESSAGES, KILLS = 6, 6, 5

MANIFESTS = """
apiVersion: troupe.dev/v1
kind: Model
metadata: {name: default}
spec: {}
---
apiVersion: troupe.dev/v1
kind: Tool
metadata: {name: calculator}
spec: {python: {entryPoint: "ledger_tool:calculator"}}
---
apiVersion: troupe.dev/v1
kind: Agent
metadata: {name: clerk}
spec: {model: default, tools: [calculator]}
"""
# A tool that is not idempotent: each call leaves a line behind, durably, before it answers.
TOOL = """
import asyncio, os
from troupe.dataplane.tools.tool import tool

@tool
async def calculator(expression: str) -> str:
    "Calculates."
    with open("effects.log", "a") as effects:
        effects.write(expression + "\\n")
        effects.flush()
        os.fsync(effects.fileno())
    await asyncio.sleep(0.02)
    left, right = expression.split("*")
    return str(int(left) * int(right))
"""
FAST = {"TROUPE_TTFT": "constant:0.01", "TROUPE_PER_TOKEN": "constant:0.002"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "ledger_tool.py").write_text(TOOL)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "fleet.yaml").write_text(MANIFESTS)
    return tmp_path


def session(number: int) -> SessionRef:
    return SessionRef(agent="clerk", session=f"s{number}")


async def confirmed(fleet: Up, request: SendRequest) -> None:
    """Send until the broker has confirmed, over however many restarts, always under the same id."""
    while True:
        try:
            async with channel(fleet.gateway) as connection:
                await AgentServiceStub(connection).Send(request)
                return
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.05)


async def talk(fleet: Up, number: int, dice: random.Random) -> list[str]:
    ids = []
    for message in range(MESSAGES):
        request = SendRequest(
            session=session(number),
            message_id=f"m{message}",
            content=Content(text=f"What is {1000 + number * 100 + message} * 7?"),
        )
        await confirmed(fleet, request)
        ids.append(request.message_id)
        await asyncio.sleep(dice.uniform(0.0, 0.5))
    return ids


async def killer(fleet: Up, dice: random.Random) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(dice.uniform(0.3, 1.2))
        await fleet.kill()
        await fleet.start()


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_confirmed_is_lost_and_nothing_acts_twice(directory: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with up(directory, FAST, directory / "manifests") as fleet:
        # When sessions talk while the process is killed under them
        async with asyncio.TaskGroup() as group:
            talks = [group.create_task(talk(fleet, number, dice)) for number in range(SESSIONS)]
            group.create_task(killer(fleet, dice))
        # Then every confirmed message has an end
        effects = Counter((directory / "effects.log").read_text().split("\n"))
        async with channel(fleet.gateway) as connection:
            stub = AgentServiceStub(connection)
            for number, task in enumerate(talks):
                done = []
                for message, message_id in enumerate(task.result()):
                    status = (
                        await stub.GetMessage(
                            GetMessageRequest(session=session(number), message_id=message_id, wait=duration(30)),
                            timeout=40,
                        )
                    ).status
                    effects = Counter((directory / "effects.log").read_text().split("\n"))
                    expression = f"{1000 + number * 100 + message} * 7"
                    # a call that had started when the process died may have acted, and is never made again
                    if status.fate == turn_pb2.FATE_DEAD:
                        assert status.error.reason == "UNKNOWN_OUTCOME", status
                        assert effects[expression] <= 1
                    else:
                        assert status.fate == turn_pb2.FATE_DONE, status
                        assert str((1000 + number * 100 + message) * 7) in status.result.text
                        assert effects[expression] == 1
                        done.append(message_id)
                # and the session has the turns that were answered, once each, in order
                found = await stub.GetSession(GetSessionRequest(session=session(number), history=1000))
                assert [entry.message_id for entry in found.history if entry.role == "user"] == done
                assert found.session.turns == len(done)
        assert max(effects.values()) == 1


async def test_a_conversation_that_was_cut_goes_on_under_the_same_id(directory: Path) -> None:
    slow = {"TROUPE_TTFT": "constant:0.01", "TROUPE_PER_TOKEN": "constant:0.05"}
    async with up(directory, slow, directory / "manifests") as fleet:
        request = ConverseRequest(
            message=SendRequest(session=session(0), message_id=uuid7(), content=Content(text="count to 40"))
        )
        # Given an answer that is being streamed
        async with channel(fleet.gateway) as connection:
            async for response in AgentServiceStub(connection).Converse(request):
                if response.event.HasField("token_delta"):
                    break
            # When the process dies and comes back
            await fleet.kill()
        await fleet.start()
        # Then the client that asks again, with the same id, gets the whole answer
        text, last = "", None
        async with asyncio.timeout(30):
            while last is None:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async with channel(fleet.gateway) as connection:
                        async for response in AgentServiceStub(connection).Converse(request):
                            last = response.event
        assert last is not None
        text = last.completed.result.text
        assert "40" in text
        async with channel(fleet.gateway) as connection:
            found = await AgentServiceStub(connection).GetSession(GetSessionRequest(session=session(0)))
        assert found.session.turns == 1


async def test_a_fleet_that_stops_cancels_nobody_s_turn(directory: Path) -> None:
    slow = {"TROUPE_TTFT": "constant:0.01", "TROUPE_PER_TOKEN": "constant:0.05"}
    async with up(directory, slow, directory / "manifests") as fleet:
        # Given a client that asked for its turn to be cancelled should it leave
        request = ConverseRequest(
            message=SendRequest(session=session(0), message_id="m", content=Content(text="count to 60")),
            cancel_on_disconnect=True,
        )
        stopping: asyncio.Task[int] | None = None
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with channel(fleet.gateway) as connection:
                async for response in AgentServiceStub(connection).Converse(request):
                    if response.event.HasField("token_delta") and stopping is None:
                        # When it is the fleet that leaves
                        stopping = asyncio.create_task(fleet.stop())
        assert stopping is not None
        assert await stopping == 0
        await fleet.start()
        # Then the turn is taken up again
        async with channel(fleet.gateway) as connection:
            asked = GetMessageRequest(session=session(0), message_id="m", wait=duration(20))
            status = (await AgentServiceStub(connection).GetMessage(asked, timeout=30)).status
    assert status.fate == turn_pb2.FATE_DONE
    assert "60" in status.result.text
