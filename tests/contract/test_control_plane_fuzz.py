"""Whatever messages come, a control plane answers with a proper error, or does as it was told; it never breaks, and
what is wrong with a set of resources is said of each field, with nothing stored."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from support.control_planes import Client, control_plane, workers
from support.fake_workers import FakeWorker
from support.fleets import agent, fleet, model
from support.random_messages import fill

from troupe.chassis import rpc_client
from troupe.chassis.errors import InvalidArgument, ResourceExhausted
from troupe.chassis.ids import uuid7
from troupe.v1 import control_plane_pb2
from troupe.v1.control_plane_pb2 import SyncRequest, WatchStatusRequest
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.resource_pb2 import AgentSpec, Metadata, Resource
from troupe.v1.rollout_pb2 import RolloutPolicy, WorkerShare

CALLS = 300
BROKEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
KINDS = ("Agent", "Model", "Tool", "Actor", "", "agent", "Nonsense")
METHODS = list(control_plane_pb2.DESCRIPTOR.services_by_name["ControlPlaneService"].methods)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with control_plane(tmp_path, watcher_patience=1.0) as opened:
        yield opened


def _plausible(request: Any, dice: random.Random, known: list[str]) -> None:
    """Often a field is one that can be, so that a call comes further."""
    names = request.DESCRIPTOR.fields_by_name
    for name in ("revision_id", "parent_revision_id", "from_revision_id", "to_revision_id"):
        if name in names and dice.random() < 0.7:
            setattr(request, name, dice.choice([uuid7(), *known]))
    if "worker_id" in names and dice.random() < 0.7:
        request.worker_id = dice.choice(("worker-0", "worker-1"))
    if "address" in names and dice.random() < 0.7:
        request.address = "127.0.0.1:1"
    if isinstance(request, SyncRequest):
        for resource in request.resources:
            if dice.random() < 0.8:
                resource.kind = dice.choice(KINDS)
            if dice.random() < 0.5:
                resource.metadata.name = dice.choice(("one", "two"))
            if dice.random() < 0.5:
                spec = AgentSpec()
                fill(spec, dice)
                resource.spec.Pack(spec)


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


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
async def test_no_message_breaks_a_control_plane(method: Any, client: Client) -> None:
    dice, worker = random.Random(method.name), FakeWorker()
    async with workers(worker):
        await client.register(worker)
        known = [(await client.sync(fleet())).revision_id]
        codes: set[grpc.StatusCode] = set()
        for _ in range(0, CALLS, 50):
            calls = []
            for _ in range(50):
                request = method.input_type._concrete_class()
                fill(request, dice)
                _plausible(request, dice, known)
                timeout = 0.3 if method.server_streaming else 10.0
                calls.append(_end(getattr(client.stub, method.name)(request, timeout=timeout), method.server_streaming))
            codes.update(await asyncio.gather(*calls))

        assert not codes & BROKEN
        assert len(codes) > 1 or method.server_streaming, "some do no harm, and some are refused"
        after = FakeWorker("after")
        after.address = worker.address
        await client.register(after)
        newest = (await client.revision()).revision
        last = await client.sync([model("after")], parent=newest.revision_id)
        assert (last.generation, last.current) == (newest.generation + 1, True)


def _named(name: str, namespace: str = "default", kind: str = "Model") -> Resource:
    made = model()
    made.kind = kind
    made.metadata.CopyFrom(Metadata(name=name, namespace=namespace))
    return made


WRONG = {
    "a path as name": [_named("../../etc/passwd")],
    "a name with a line end": [_named("one\n")],
    "a name with a null": [_named("one\0two")],
    "a name that reads from right to left": [_named("\u202eone")],
    "a long name": [_named("x" * 100_000)],
    "an empty name": [_named("")],
    "a namespace of blanks": [_named("one", "  ")],
    "an unknown kind": [_named("one", kind="Daemon")],
    "the same name twice": [_named("one"), _named("one")],
    "no spec": [Resource(kind="Model", metadata=Metadata(name="one", namespace="default"))],
    "a spec of another kind": [agent("one"), Resource(kind="Model", metadata=Metadata(name="m"), spec=agent().spec)],
    "a spec that is none": [
        Resource(
            kind="Model",
            metadata=Metadata(name="one", namespace="default"),
            spec=Packed(type_url="type.googleapis.com/troupe.v1.ModelSpec", value=b"\xff\xff\xff"),
        )
    ],
    "a model that is not there": [agent("one", AgentSpec(model="nobody"))],
    "one too many": [_named(f"m{number}") for number in range(10_001)],
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_set_is_refused_and_nothing_is_stored(case: str, client: Client) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.sync(WRONG[case])

    assert refused.value.violations
    assert len(str(refused.value)) < 2_000
    assert not (await client.revisions()).revisions


@pytest.mark.parametrize(
    "policy",
    [
        RolloutPolicy(canary=WorkerShare(percent=101)),
        RolloutPolicy(canary=WorkerShare(workers=2**31)),
        RolloutPolicy(max_unavailable=WorkerShare(percent=0)),
        RolloutPolicy(max_unavailable=WorkerShare(workers=0)),
        RolloutPolicy(max_unavailable=WorkerShare()),
        RolloutPolicy(max_failures=65_537),
        RolloutPolicy(on_failure=7),  # type: ignore[arg-type]
    ],
    ids=str,
)
async def test_a_policy_out_of_range_is_refused_and_nothing_is_stored(policy: RolloutPolicy, client: Client) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.sync(fleet(), policy=policy)

    assert all(violation.field.startswith("rollout.") for violation in refused.value.violations)
    assert not (await client.revisions()).revisions


async def test_a_set_that_no_message_can_hold_is_refused_and_nothing_is_stored(client: Client) -> None:
    def prompts(size: int) -> list[Resource]:
        agents = [agent(f"a{number}", AgentSpec(model="default", system_prompt="x" * size)) for number in range(200)]
        return [model(), *agents]

    with pytest.raises(InvalidArgument):
        await client.sync(prompts(84_000))  # more than 16 MiB, and it fits into one call
    with pytest.raises(ResourceExhausted):
        await client.sync(prompts(100_000))
    assert not (await client.revisions()).revisions


async def test_a_thousand_watchers_half_of_whom_never_read_hold_up_nobody(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as client, rpc_client.channel(client.address) as other:
        # Given 500 who open a stream and read nothing of it, and 500 who read.
        silent = [ControlPlaneServiceStub(other).WatchStatus(WatchStatusRequest()) for _ in range(500)]
        readers = [client.stub.WatchStatus(WatchStatusRequest()) for _ in range(500)]
        await asyncio.gather(*map(_synced, readers))

        # When revisions are committed, then each reader hears of the last one, and no Sync waits for those who do not.
        parent, took = "", []
        for number in range(5):
            began = time.monotonic()
            parent = (await client.sync(fleet(prompt=f"{number}"), parent)).revision_id
            took.append(time.monotonic() - began)
        async with asyncio.timeout(40):
            await asyncio.gather(*(_shown(reader, parent) for reader in readers))
        assert sorted(took)[2] < 5.0, "half of what a watcher is waited for"
        for call in (*silent, *readers):
            call.cancel()


async def _synced(watch: Any) -> None:
    async for piece in watch:
        if piece.HasField("synced"):
            return


async def _shown(watch: Any, revision_id: str) -> None:
    async for piece in watch:
        if piece.revision.revision_id == revision_id:
            return
    raise AssertionError("the stream ended")
