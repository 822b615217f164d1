"""The processes of a fleet under mutual TLS: who is who, by the name in the certificate."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.credentials import Files, Tokens, certificates
from support.fleets import actor

from troupe.chassis import rpc_client
from troupe.chassis.errors import PermissionDenied, TroupeError
from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import ClientTls, translated
from troupe.chassis.rpc_errors import Unauthenticated
from troupe.controlplane import process as controlplane
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.dataplane import process as dataplane
from troupe.dataplane.settings import DataPlaneSettings
from troupe.v1.agent_pb2 import GetMessageRequest, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.control_plane_pb2 import RegisterRequest, SyncRequest, WatchStatusRequest
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.data_plane_pb2 import ApplyRequest, PlaceRequest, ReportRequest
from troupe.v1.data_plane_pb2_grpc import DataPlaneServiceStub
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.resource_pb2 import ActorSpec
from troupe.v1.status_pb2 import HealthState

COUNTER = actor("counter", ActorSpec(entry_point="support.scripted_actor:Counter"))


class Fleet:
    """A control plane, its address, and a user's channel to it."""

    def __init__(self, files: Files, tokens: Tokens, directory: Path, address: str) -> None:
        self.files, self.tokens, self.directory, self.address = files, tokens, directory, address
        self.admin = tokens.add("root", "admin")

    def shown(self, name: str) -> ClientTls:
        return ClientTls(*self.files.settings(name).values())

    @asynccontextmanager
    async def worker(self, worker_id: str, certificate: str) -> AsyncIterator[str]:
        settings = DataPlaneSettings(
            listen="127.0.0.1:0",
            server=[self.address],
            worker_id=worker_id,
            metrics_listen="",
            data=self.directory / worker_id,
            python_path=[],
            health_window=0.1,
            health_checks=1,
            drain_timeout=0.0,
            tokens=self.tokens.path,
            **self.files.settings(certificate),
        )
        async with dataplane.running(settings) as worker:
            yield worker.address

    async def status(self, wanted: Callable[[Any], bool]) -> Any:
        """The first status of a worker for which `wanted` holds."""
        async with asyncio.timeout(20), rpc_client.channel(self.address, self.shown("client"), self.admin) as channel:
            while True:
                async for piece in ControlPlaneServiceStub(channel).WatchStatus(WatchStatusRequest()):
                    if piece.HasField("worker") and wanted(piece.worker):
                        return piece.worker

    async def sync(self) -> None:
        async with rpc_client.channel(self.address, self.shown("client"), self.admin) as channel:
            with translated():
                await ControlPlaneServiceStub(channel).Sync(SyncRequest(revision_id=uuid7(), resources=[COUNTER]))


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    files = certificates(tmp_path / "certs", "worker-0", "worker-1")
    tokens = Tokens(tmp_path / "tokens.toml")
    tokens.add("nobody", "telemetry")
    settings = ControlPlaneSettings(
        listen="127.0.0.1:0",
        store="memory://",
        data=tmp_path,
        lease=4.0,
        renew_after=0.2,
        tokens=tokens.path,
        **files.settings("controlplane"),
    )
    async with controlplane.running(settings) as plane:
        yield Fleet(files, tokens, tmp_path, plane.address)


async def refusal(call: Awaitable[Any]) -> TroupeError:
    with pytest.raises((PermissionDenied, Unauthenticated)) as refused, translated():
        await call
    return refused.value


def applied(worker: Any) -> bool:
    return bool(worker.report.running.generation == 1)


async def test_a_fleet_of_certificates_takes_a_revision(fleet: Fleet) -> None:
    async with fleet.worker("worker-0", "worker-0"):
        await fleet.sync()
        assert (await fleet.status(applied)).worker_id == "worker-0"


async def test_a_worker_registers_under_the_name_in_its_certificate_alone(fleet: Fleet) -> None:
    request = RegisterRequest(worker_id="worker-1", instance_id="i", address="127.0.0.1:1")
    async with rpc_client.channel(fleet.address, fleet.shown("worker-0")) as channel:
        stub: Any = ControlPlaneServiceStub(channel)
        refused = await refusal(stub.Register(request))
        assert refused.reason == "OTHER_WORKER"
        request.worker_id = "worker-0"
        assert (await stub.Register(request)).term
    for other in ("controlplane", "client"):
        async with rpc_client.channel(fleet.address, fleet.shown(other)) as channel:
            stub = ControlPlaneServiceStub(channel)
            refused = await refusal(stub.Register(request))
            assert refused.reason == ("ROLE_MISSING" if other == "controlplane" else "NO_CREDENTIAL")


async def test_a_worker_with_another_ones_certificate_does_not_join(fleet: Fleet) -> None:
    async with fleet.worker("worker-1", "worker-0"), fleet.worker("worker-0", "worker-0"):
        seen = set[str]()
        await fleet.sync()

        def all_seen(worker: Any) -> bool:
            seen.add(worker.worker_id)
            return applied(worker)

        await fleet.status(all_seen)
        assert seen == {"worker-0"}


async def test_workers_take_revisions_and_placements_from_the_control_plane_alone(fleet: Fleet) -> None:
    async with fleet.worker("worker-0", "worker-0") as address:
        for name, reason in (("worker-1", "ROLE_MISSING"), ("client", "NO_CREDENTIAL")):
            async with rpc_client.channel(address, fleet.shown(name)) as channel:
                stub: Any = DataPlaneServiceStub(channel)
                assert (await refusal(stub.Apply(ApplyRequest()))).reason == reason
                assert (await refusal(stub.Place(PlaceRequest()))).reason == reason
                assert (await refusal(anext(aiter(stub.Report(ReportRequest()))))).reason == reason
        async with rpc_client.channel(address, fleet.shown("controlplane")) as channel:
            stub = DataPlaneServiceStub(channel)
            async for response in stub.Report(ReportRequest()):
                assert response.report.worker_id == "worker-0"
                break


async def test_a_worker_may_ask_another_what_it_passes_on_and_no_more(fleet: Fleet) -> None:
    async with fleet.worker("worker-0", "worker-0") as address:
        await fleet.sync()
        await fleet.status(lambda worker: applied(worker) and len(worker.report.shards) > 0)
        async with rpc_client.channel(address, fleet.shown("worker-1")) as channel:
            stub: Any = AgentServiceStub(channel)
            session = SessionRef(tenant="acme", agent="counter", session="s")
            assert (await stub.GetMessage(GetMessageRequest(session=session, message_id="m"))).status.message_id == "m"
            refused = await refusal(stub.Send(SendRequest(session=session)))
            assert (refused.reason, refused.metadata["missing_role"]) == ("ROLE_MISSING", "client")


async def test_a_fleet_goes_on_when_all_its_certificates_are_replaced(fleet: Fleet, tmp_path: Path) -> None:
    async with fleet.worker("worker-0", "worker-0"):
        await fleet.sync()
        await fleet.status(applied)
        before = Files(Path(shutil.copytree(fleet.files.directory, tmp_path / "before")))
        # When each file is replaced by that of another authority
        fresh = certificates(tmp_path / "fresh", "worker-0", "worker-1")
        for made in fresh.directory.iterdir():
            made.replace(fleet.files.directory / made.name)
        # Then the old authority's are refused, and the worker joins anew with what it has now
        with pytest.raises(TroupeError), translated():
            async with rpc_client.channel(fleet.address, ClientTls(*before.settings("worker-0").values())) as channel:
                await ControlPlaneServiceStub(channel).Register(RegisterRequest(worker_id="worker-0"))
        async with rpc_client.channel(fleet.address, fleet.shown("worker-0")) as channel:
            stub: Any = ControlPlaneServiceStub(channel)
            request = RegisterRequest(worker_id="worker-1", instance_id="i", address="127.0.0.1:1")
            assert (await refusal(stub.Register(request))).reason == "OTHER_WORKER"
        # longer than a lease: what is healthy now has registered since
        async with asyncio.timeout(20):
            begun = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() - begun < 5.0:
                status = await fleet.status(applied)
                assert status.report.health.state != HealthState.HEALTH_STATE_LOST
