"""Whatever messages come, a worker answers with a proper error, or does as it was told; it never breaks."""

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.random_messages import fill
from support.serving_worker import SHARDS, ServingWorker, counting_worker

from troupe.chassis.wire import duration
from troupe.dataplane.peers import RELAYED
from troupe.v1 import agent_pb2, data_plane_pb2, dead_letter_pb2, promise_pb2, turn_pb2
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment
from troupe.v1.envelope_pb2 import Content, SessionRef

CALLS = 300


def _named(message: Any, dice: random.Random) -> None:
    """Often the session is one that can be, so that a call comes further."""
    if dice.random() < 0.7 and "filter" in message.DESCRIPTOR.fields_by_name:
        message.ClearField("filter")
        message.filter.session.CopyFrom(SessionRef(agent="counter", session=dice.choice("abc")))
        message.pool = dice.choice(["", "agents"])
    elif dice.random() < 0.7 and "promise" in message.DESCRIPTOR.fields_by_name:
        message.ClearField("token")
        message.promise.session.CopyFrom(SessionRef(agent="counter", session=dice.choice("abc")))
    elif dice.random() < 0.7:
        for holder in (message, getattr(message, "message", None)):
            if holder is not None and "session" in holder.DESCRIPTOR.fields_by_name:
                holder.session.CopyFrom(SessionRef(agent="counter", session=dice.choice("abc")))
        if isinstance(message, agent_pb2.ControlTurnsRequest):
            message.verb = dice.choice([agent_pb2.VERB_CANCEL, agent_pb2.VERB_KILL, agent_pb2.VERB_PAUSE])
            if dice.random() < 0.5:
                message.ClearField("messages" if dice.random() < 0.5 else "selector")
            for each in message.messages:
                each.session.CopyFrom(SessionRef(agent="counter", session=dice.choice("abc")))


async def _give_up(worker: ServingWorker) -> None:
    """Leave some dead letters behind."""
    for name in "abc":
        session = SessionRef(agent="counter", session=name)
        await worker.agents.Send(SendRequest(session=session, content=Content(text="wrong"), wait=duration(5)))


async def _end(call: Any, streams: bool) -> grpc.StatusCode:
    try:
        if streams:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


METHODS = [
    method
    for service in (
        agent_pb2.DESCRIPTOR.services_by_name["AgentService"],
        data_plane_pb2.DESCRIPTOR.services_by_name["DataPlaneService"],
        dead_letter_pb2.DESCRIPTOR.services_by_name["DeadLetterService"],
        promise_pb2.DESCRIPTOR.services_by_name["PromiseService"],
    )
    for method in service.methods
]


@pytest.mark.parametrize("method", METHODS[:8], ids=[method.name for method in METHODS[:8]])
async def test_no_message_breaks_a_worker_whose_sessions_are_on_one_that_cannot_be_reached(
    method: Any, tmp_path: Path
) -> None:
    dice = random.Random(method.name)
    async with counting_worker(tmp_path) as worker:
        elsewhere = [
            ShardAssignment(shard=shard, epoch=2, worker_id="gone", instance_id="gone", address="127.0.0.1:1")
            for shard in range(SHARDS)
        ]
        await worker.data_plane.Place(PlaceRequest(term=1, version=2, shard_count=SHARDS, shards=elsewhere))
        calls = []
        for _ in range(100):
            request = method.input_type._concrete_class()
            fill(request, dice)
            _named(request, dice)
            calls.append(_end(getattr(worker.agents, method.name)(request, timeout=0.3), method.server_streaming))
        codes = set(await asyncio.gather(*calls))
        assert not codes & {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
async def test_no_message_breaks_a_worker(method: Any, tmp_path: Path) -> None:
    dice = random.Random(method.name)
    request_class = method.input_type._concrete_class
    async with counting_worker(tmp_path, health_window=0.0) as worker:
        stubs = {
            "AgentService": worker.agents,
            "DataPlaneService": worker.data_plane,
            "DeadLetterService": worker.letters,
            "PromiseService": worker.promises,
        }
        stub: Any = stubs[method.containing_service.name]
        await _give_up(worker)
        calls = []
        count = 30 if method.name == "Report" else CALLS
        for _ in range(count):
            request = request_class()
            fill(request, dice)
            _named(request, dice)
            relayed = (RELAYED,) if dice.random() < 0.3 else ()
            call = getattr(stub, method.name)(request, timeout=0.3, metadata=relayed)
            calls.append(_end(call, method.server_streaming))
        codes: set[grpc.StatusCode] = set()
        for start in range(0, count, 50):
            codes.update(await asyncio.gather(*calls[start : start + 50]))

        assert not codes & {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
        if method.name not in ("Place", "Apply"):
            session = SessionRef(agent="counter", session="after")
            request = SendRequest(session=session, content=Content(text="hello"), wait=duration(10))
            assert (await worker.agents.Send(request, timeout=15)).status.fate == turn_pb2.FATE_DONE
        else:
            assert (await worker.report()).worker_id == "worker-0"
