"""Every call of every service asks who makes it: missing, wrong, expired and weak credentials, on real servers."""

import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from support.credentials import AUDIENCE, ISSUER, Signer, Tokens, key_set

import troupe.v1
from troupe.chassis import rpc_client
from troupe.chassis.access.policy import INSPECTION, OPEN
from troupe.chassis.access.roles import FLEET, Role
from troupe.chassis.access.settings import AccessSettings
from troupe.chassis.errors import InvalidArgument, PermissionDenied, TroupeError
from troupe.chassis.rpc_client import translated
from troupe.chassis.rpc_errors import Unauthenticated
from troupe.controlplane import process as controlplane
from troupe.controlplane.access import METHODS as OF_CONTROL_PLANE
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.dataplane import process as dataplane
from troupe.dataplane.access import METHODS as OF_WORKER
from troupe.dataplane.settings import DataPlaneSettings

CONTROL_PLANE = ("ControlPlaneService",)
WORKER = ("AgentService", "DataPlaneService", "DeadLetterService", "PromiseService")
TABLE = {**INSPECTION, **OF_CONTROL_PLANE, **OF_WORKER}


def methods(*files: FileDescriptor) -> Iterator[MethodDescriptor]:
    for file in files:
        for service in file.services_by_name.values():
            yield from service.methods


def contracts() -> list[FileDescriptor]:
    modules = [f"troupe.v1.{one.name}" for one in pkgutil.iter_modules(troupe.v1.__path__) if one.name.endswith("_pb2")]
    return [importlib.import_module(name).DESCRIPTOR for name in modules]


def path(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


OURS = list(methods(*contracts()))
OTHERS = list(methods(channelz_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR))
GUARDED = [*OURS, *OTHERS]
every_call = pytest.mark.parametrize("method", GUARDED, ids=path)


@asynccontextmanager
async def serving(method: MethodDescriptor, directory: Path, **access: Any) -> AsyncIterator[str]:
    """The address of a server that has the method."""
    settings: Any
    if method.containing_service.name in CONTROL_PLANE:
        settings = ControlPlaneSettings(listen="127.0.0.1:0", data=directory / "data", store="memory://", **access)
        async with controlplane.running(settings) as plane:
            yield plane.address
    else:
        settings = DataPlaneSettings(
            listen="127.0.0.1:0",
            server=["127.0.0.1:1"],
            metrics_listen="",
            data=directory / "data",
            python_path=[],
            drain_timeout=0.0,
            **access,
        )
        async with dataplane.running(settings) as worker:
            yield worker.address


async def answer(address: str, method: MethodDescriptor, *metadata: tuple[str, str], token: str = "") -> None:
    """Make the call with an empty request, until its first answer. Raises the TroupeError that it ends in."""
    request = GetMessageClass(method.input_type)()
    codecs = GetMessageClass(method.input_type).SerializeToString, GetMessageClass(method.output_type).FromString
    async with rpc_client.channel(address, token=token) as opened:
        channel: Any = opened
        with translated(address):
            if method.server_streaming:
                # Where the client streams too: it is the same on the wire, and a client that writes message by message
                # is told, at times, of a write that failed instead of the status that refused the call.
                make = channel.unary_stream(f"/{path(method)}", *codecs)
                await make(request, timeout=10, metadata=metadata).read()
            else:
                await channel.unary_unary(f"/{path(method)}", *codecs)(request, timeout=10, metadata=metadata)


def test_every_method_of_every_service_is_in_a_table_once() -> None:
    listed = [*INSPECTION, *OF_CONTROL_PLANE, *OF_WORKER]
    assert len(set(listed)) == len(listed)
    assert {path(method) for method in GUARDED} == set(listed)
    assert {path(method) for method in methods(health_pb2.DESCRIPTOR)} <= OPEN
    assert all(name.startswith("grpc.health.v1.Health/") for name in OPEN)
    assert all(TABLE.values())


def test_each_service_is_served_where_the_tests_look_for_it() -> None:
    assert {method.containing_service.name for method in OURS} == {*CONTROL_PLANE, *WORKER}


@every_call
async def test_without_a_credential_with_a_wrong_or_an_expired_one_nothing_is_done(
    method: MethodDescriptor, tmp_path: Path
) -> None:
    tokens, signer = Tokens(tmp_path / "tokens.toml"), Signer()
    everything = [role.value for role in Role]
    expired = tokens.add("old", *everything, expires="2020-01-01T00:00:00Z")
    good = tokens.add("good", *everything)
    (tmp_path / "keys.json").write_bytes(key_set(signer))
    access = {
        "tokens": tokens.path,
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
        "jwt_keys": str(tmp_path / "keys.json"),
    }
    wrong: dict[str, tuple[tuple[str, str], ...]] = {
        "NO_CREDENTIAL": (),
        "BAD_CREDENTIAL": (("authorization", f"Bearer {good[:-1]}"),),
        "TOKEN_EXPIRED": (("authorization", f"Bearer {expired}"),),
    }
    async with serving(method, tmp_path, **access) as address:
        for reason, metadata in wrong.items():
            with pytest.raises(Unauthenticated) as refused:
                await answer(address, method, *metadata)
            assert refused.value.reason == reason
        others = {
            "expired": signer.token(roles=everything, exp=1),
            "of another issuer": signer.token(roles=everything, iss="https://evil.test"),
            "signed by another": Signer().token(roles=everything),
            "basic": "",
        }
        for token in others.values():
            header = f"Bearer {token}" if token else "Basic YWRtaW46YWRtaW4="
            with pytest.raises(Unauthenticated):
                await answer(address, method, ("authorization", header))


@every_call
async def test_a_role_may_what_the_table_says_and_no_more(method: MethodDescriptor, tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.toml")
    of_role = {role: tokens.add(f"the-{role}", role) for role in Role}
    async with serving(method, tmp_path, tokens=tokens.path) as address:
        for role, token in of_role.items():
            denied: TroupeError | None = None
            try:
                await answer(address, method, token=token)
            except TroupeError as error:
                denied = error if isinstance(error, PermissionDenied | Unauthenticated) else None
            assert (denied is None) == (role in TABLE[path(method)]), (role, denied)
            if denied is not None:
                assert denied.metadata["missing_role"] in TABLE[path(method)]


def test_what_changes_the_fleet_is_for_admins_and_processes_alone() -> None:
    changes = {"Sync", "Rollback", "Redrive", "Purge"}
    for name, roles in TABLE.items():
        if name.rpartition("/")[2] in changes:
            assert roles == {Role.ADMIN}, name
        if "DataPlaneService" in name:
            assert roles == {Role.CONTROLPLANE}, name
    users = [name for name, roles in TABLE.items() if roles & FLEET and not roles - FLEET]
    assert {name.rpartition("/")[2] for name in users} == {"Register", "Apply", "Place", "Report"}


def test_a_server_without_certificates_or_tokens_asks_nobody() -> None:
    assert not AccessSettings().asks
    assert AccessSettings(tokens=Path("tokens.toml")).asks
    assert AccessSettings(jwt_issuer=ISSUER, jwt_keys="keys.json").asks
    pem = Path("x.pem")
    assert AccessSettings(tls_ca=pem, tls_cert=pem, tls_key=pem).asks
    assert not AccessSettings(tls_cert=pem, tls_key=pem).asks


async def test_a_path_that_no_service_has_is_not_served(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.toml")
    tokens.add("x", "admin")
    async with (
        serving(OURS[0], tmp_path, tokens=tokens.path) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call: Any = channel.unary_unary("/troupe.v1.Nothing/AtAll")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", [one for one in OURS if not one.client_streaming], ids=path)
async def test_bytes_that_are_no_request_are_looked_at_after_the_credential(
    method: MethodDescriptor, tmp_path: Path
) -> None:
    tokens = Tokens(tmp_path / "tokens.toml")
    token = tokens.add("everybody", *Role)
    async with serving(method, tmp_path, tokens=tokens.path) as address:
        for shown, expected in (("", Unauthenticated), (token, InvalidArgument)):
            async with rpc_client.channel(address, token=shown) as opened:
                channel: Any = opened
                make = channel.unary_stream if method.server_streaming else channel.unary_unary
                with pytest.raises(expected), translated():
                    call = make(f"/{path(method)}")(b"\xff\xff\xff", timeout=10)
                    await (call.read() if method.server_streaming else call)
