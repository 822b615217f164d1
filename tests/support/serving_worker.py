"""A worker that serves over gRPC, and the test in the part of its control plane."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.fleets import actor

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import Credentials, channel
from troupe.dataplane.process import running
from troupe.dataplane.settings import DataPlaneSettings
from troupe.resources.content import content_hash
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.data_plane_pb2 import ApplyRequest, PlaceRequest, ReportRequest, ShardAssignment
from troupe.v1.data_plane_pb2_grpc import DataPlaneServiceStub
from troupe.v1.dead_letter_pb2_grpc import DeadLetterServiceStub
from troupe.v1.promise_pb2_grpc import PromiseServiceStub
from troupe.v1.resource_pb2 import ActorSpec, ConfigSpec, Resource
from troupe.v1.status_pb2 import RevisionAttempt, StatusReport

if TYPE_CHECKING:
    from troupe.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from troupe.v1.data_plane_pb2_grpc import DataPlaneServiceAsyncStub
    from troupe.v1.dead_letter_pb2_grpc import DeadLetterServiceAsyncStub
    from troupe.v1.promise_pb2_grpc import PromiseServiceAsyncStub

SHARDS = 4
COUNTER = actor("counter", ActorSpec(entry_point="support.scripted_actor:Counter"))


def config(generation: int, *resources: Resource, term: int = 1) -> ConfigSpec:
    """A revision of these resources; of the counter alone where none are given."""
    given = resources or (COUNTER,)
    return ConfigSpec(
        revision_id=uuid7(), generation=generation, term=term, resources=given, content_hash=content_hash(given)
    )


class ServingWorker:
    """Stubs of one worker."""

    def __init__(
        self,
        agents: "AgentServiceAsyncStub",
        data_plane: "DataPlaneServiceAsyncStub",
        letters: "DeadLetterServiceAsyncStub",
        promises: "PromiseServiceAsyncStub",
        address: str,
    ) -> None:
        self.agents, self.data_plane, self.letters, self.promises = agents, data_plane, letters, promises
        self.address = address

    async def apply(self, revision: ConfigSpec) -> RevisionAttempt:
        return (await self.data_plane.Apply(ApplyRequest(config=revision))).attempt

    async def report(self) -> StatusReport:
        """The status now."""
        call = self.data_plane.Report(ReportRequest())
        async for response in call:
            call.cancel()
            return response.report
        raise AssertionError("a report comes at once")

    async def place(self, *, version: int = 1, epoch: int = 1, shards: Sequence[int] = range(SHARDS)) -> Any:
        instance = (await self.report()).instance_id
        assigned = [
            ShardAssignment(shard=shard, epoch=epoch, worker_id="worker-0", instance_id=instance, address=self.address)
            for shard in shards
        ]
        return await self.data_plane.Place(
            PlaceRequest(term=1, version=version, shard_count=SHARDS, shards=assigned), timeout=10
        )


@asynccontextmanager
async def serving_worker(directory: Path, **settings: Any) -> AsyncIterator[ServingWorker]:
    """One without revision or shards. No control plane answers it."""
    options = {
        "server": ["127.0.0.1:1"],
        "health_window": 0.2,
        "health_checks": 2,
        "drain_timeout": 0.2,
        **settings,
    }
    given = DataPlaneSettings(listen="127.0.0.1:0", metrics_listen="", data=directory, python_path=[], **options)
    shown = Credentials.among_peers(given)
    async with running(given) as worker, channel(worker.address, shown.tls, shown.token) as connection:
        agents: Any = AgentServiceStub(connection)
        data_plane: Any = DataPlaneServiceStub(connection)
        letters: Any = DeadLetterServiceStub(connection)
        promises: Any = PromiseServiceStub(connection)
        yield ServingWorker(agents, data_plane, letters, promises, worker.address)


@asynccontextmanager
async def counting_worker(directory: Path, **settings: Any) -> AsyncIterator[ServingWorker]:
    """One that runs the counter on all shards."""
    async with serving_worker(directory, **settings) as worker:
        await worker.apply(config(1))
        await worker.place()
        yield worker
