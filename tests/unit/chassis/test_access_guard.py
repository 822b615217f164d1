"""A server that asks who calls, over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from support.credentials import AUDIENCE, ISSUER, Files, Signer, Tokens, certificates, key_set
from support.echo import SERVICE, Echo, echo

from troupe.chassis import rpc_client
from troupe.chassis.access.guard import Guard, guarding
from troupe.chassis.access.policy import Table
from troupe.chassis.access.roles import ANYBODY, Caller, Role, caller
from troupe.chassis.access.settings import AccessSettings
from troupe.chassis.errors import InvalidArgument, PermissionDenied, ResourceExhausted
from troupe.chassis.rpc import serving
from troupe.chassis.rpc_client import translated
from troupe.chassis.rpc_errors import Unauthenticated
from troupe.chassis.tls import ClientTls

TABLE: Table = {
    f"{SERVICE}/unary": frozenset({Role.CLIENT, Role.WORKER}),
    f"{SERVICE}/answers": frozenset({Role.CLIENT}),
    f"{SERVICE}/asks": frozenset({Role.ADMIN}),
}
"""`both` is in no table."""


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    made = Tokens(tmp_path / "tokens.toml")
    made.add("nobody", "telemetry")
    return made


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return certificates(tmp_path_factory.mktemp("certs"), "worker-0")


@asynccontextmanager
async def guarded(settings: AccessSettings, **behaviours: Any) -> AsyncIterator[str]:
    async with serving(settings, echo(**behaviours), guarding(settings, TABLE)) as server:
        yield server.address


async def unary(address: str, token: str = "", tls: ClientTls | None = None, request: bytes = b"x") -> bytes:
    async with rpc_client.channel(address, tls, token) as channel:
        with translated():
            answer: bytes = await Echo(channel).unary(request, timeout=10)
            return answer


async def asked(channel: grpc.aio.Channel) -> None:
    with translated():
        await Echo(channel).asks(iter([b"a"]), timeout=10)


async def who(_request: bytes, _context: Any) -> bytes:
    return caller().name.encode()


async def who_by_task(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield caller().name.encode()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(who(b"", None))
    yield task.result()


def denied(method: str, role: str, reason: str) -> float:
    labels = {"method": f"{SERVICE}/{method}", "role": role, "reason": reason}
    return REGISTRY.get_sample_value("troupe_rpc_server_denied_total", labels) or 0.0


async def test_a_handler_knows_its_caller_and_so_do_the_tasks_that_it_starts(tokens: Tokens) -> None:
    one, two = tokens.add("shop", "client"), tokens.add("desk", "client")
    async with guarded(AccessSettings(tokens=tokens.path), unary=who, answers=who_by_task) as address:
        assert await asyncio.gather(*(unary(address, token) for token in (one, two, one, two))) == [
            b"shop",
            b"desk",
            b"shop",
            b"desk",
        ]
        async with rpc_client.channel(address, token=two) as channel:
            assert [answer async for answer in Echo(channel).answers(b"")] == [b"desk", b"desk"]
    assert caller() is ANYBODY


async def test_without_credentials_asked_for_everybody_may_do_everything() -> None:
    assert guarding(AccessSettings(), TABLE) is None
    async with guarded(AccessSettings(), unary=who) as address:
        assert await unary(address) == b""
        assert await unary(address, "whatever") == b""


def test_that_everybody_may_is_said_where_others_can_reach_it() -> None:
    with capture_logs() as lines:
        assert guarding(AccessSettings(listen="0.0.0.0:1", insecure=True), TABLE) is None
    assert [(line["log_level"], line["listen"]) for line in lines] == [("warning", "0.0.0.0:1")]


async def test_denied_calls_are_all_counted_and_logged_no_faster_than_a_disk_can_bear(tokens: Tokens) -> None:
    before, calls = denied("unary", "", "BAD_CREDENTIAL"), 400
    async with (
        guarded(AccessSettings(tokens=tokens.path)) as address,
        rpc_client.channel(address, token="wrong") as channel,
    ):
        began = time.monotonic()
        with capture_logs() as lines:
            for _ in range(calls):
                with pytest.raises(Unauthenticated), translated():
                    await Echo(channel).unary(b"", timeout=10)
        took = time.monotonic() - began
    assert denied("unary", "", "BAD_CREDENTIAL") == before + calls
    told = [line["untold"] for line in lines if line["event"] == "call denied"]
    assert 100 <= len(told) <= min(calls - 1, 101 + took * 10)
    assert sum(told) + len(told) <= calls


@pytest.mark.parametrize(
    ("token", "reason"), [("", "NO_CREDENTIAL"), ("wrong", "BAD_CREDENTIAL"), ("a.b.c", "BAD_CREDENTIAL")]
)
async def test_a_call_without_a_good_credential_is_counted_and_logged_without_it(
    token: str, reason: str, tokens: Tokens
) -> None:
    before = denied("unary", "", reason)
    async with guarded(AccessSettings(tokens=tokens.path)) as address:
        with capture_logs() as lines, pytest.raises(Unauthenticated) as refused:
            await unary(address, token)
    assert refused.value.reason == reason
    assert denied("unary", "", reason) == before + 1
    [line] = [line for line in lines if line["event"] == "call denied"]
    assert (line["method"], line["reason"]) == (f"{SERVICE}/unary", reason)
    assert not token or token not in str(lines)


async def test_a_missing_role_is_named_counted_and_logged_without_the_token(tokens: Tokens) -> None:
    token = tokens.add("shop", "client")
    before = denied("asks", "admin", "ROLE_MISSING")
    async with (
        guarded(AccessSettings(tokens=tokens.path)) as address,
        rpc_client.channel(address, token=token) as opened,
    ):
        link: Any = opened
        # On the wire a stream of one, whose write may fail before the status that refused it is read.
        asks, both = link.unary_unary(f"/{SERVICE}/asks"), link.unary_stream(f"/{SERVICE}/both")
        with (
            capture_logs() as lines,
            pytest.raises(PermissionDenied, match="needs the role admin; shop has client") as no,
            translated(),
        ):
            await asks(b"a", timeout=10)
        assert no.value.metadata["missing_role"] == "admin"
        assert denied("asks", "admin", "ROLE_MISSING") == before + 1
        [line] = [line for line in lines if line["event"] == "call denied"]
        assert (line["caller"], line["missing_role"]) == ("shop", "admin")
        assert token not in str(lines)
        with pytest.raises(PermissionDenied) as closed, translated():
            await both(b"a", timeout=10).read()
        assert closed.value.reason == "METHOD_CLOSED"


async def test_health_is_open_and_reflection_is_for_operators(tokens: Tokens) -> None:
    shop, ops = tokens.add("shop", "client"), tokens.add("ops", "operator")

    async def reflected(address: str, token: str) -> int:
        async with rpc_client.channel(address, token=token) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            with translated():
                async for answer in stub.ServerReflectionInfo(iter([request]), timeout=10):
                    return len(answer.list_services_response.service)
        raise AssertionError("no answer")

    async with guarded(AccessSettings(tokens=tokens.path)) as address:
        async with rpc_client.channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert await reflected(address, ops) > 1
        with pytest.raises(PermissionDenied):
            await reflected(address, shop)
        with pytest.raises(Unauthenticated):
            await reflected(address, "")


async def test_who_calls_too_often_is_told_when_to_come_back_and_the_others_are_not_held_up(tokens: Tokens) -> None:
    shop, desk = tokens.add("shop", "client"), tokens.add("desk", "client")
    async with guarded(AccessSettings(tokens=tokens.path, call_rate=1, call_burst=3)) as address:
        for _ in range(3):
            await unary(address, shop)
        with pytest.raises(ResourceExhausted) as refused:
            for _ in range(20):  # as many as it takes, where a second goes by meanwhile
                await unary(address, shop)
        assert refused.value.reason == "TOO_MANY_CALLS"
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= 1
        await unary(address, desk)


async def test_tokens_of_an_issuer_are_taken_beside_those_of_the_file(tokens: Tokens, tmp_path: Path) -> None:
    static, signer = tokens.add("shop", "client"), Signer()
    (tmp_path / "keys.json").write_bytes(key_set(signer))
    settings = AccessSettings(
        tokens=tokens.path, jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_keys=str(tmp_path / "keys.json")
    )
    async with guarded(settings, unary=who) as address:
        assert await unary(address, static) == b"shop"
        token = signer.token()
        assert [await unary(address, token) for _ in range(2)] == [b"alice", b"alice"]
        with pytest.raises(Unauthenticated):
            await unary(address, Signer("other").token())
        with pytest.raises(PermissionDenied):
            await unary(address, signer.token(roles=["worker", "cook"]))


async def test_a_process_is_known_by_its_certificate_and_a_token_beside_it_counts_alone(
    files: Files, tokens: Tokens
) -> None:
    settings = AccessSettings(tokens=tokens.path, **files.settings("controlplane"))
    worker, client = (ClientTls(*files.settings(name).values()) for name in ("worker-0", "client"))
    shop, low = tokens.add("shop", "client"), tokens.add("low", "telemetry")
    async with guarded(settings, unary=who) as address:
        assert await unary(address, tls=worker) == b"worker-0"
        assert await unary(address, shop, client) == b"shop"
        assert await unary(address, shop, worker) == b"shop"
        with pytest.raises(PermissionDenied):
            await unary(address, low, worker)
        with pytest.raises(Unauthenticated):
            await unary(address, "wrong", worker)
        with pytest.raises(Unauthenticated) as refused:
            await unary(address, tls=client)
        assert refused.value.reason == "NO_CREDENTIAL"


async def test_processes_have_no_rate(files: Files) -> None:
    settings = AccessSettings(call_rate=1, call_burst=1, **files.settings("controlplane"))
    async with guarded(settings) as address:
        for _ in range(3):
            await unary(address, tls=ClientTls(*files.settings("worker-0").values()))


async def test_a_token_is_read_again_when_its_file_changes(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_client, "_LOOK_AGAIN", 0.0)
    one, two = tokens.add("one", "client"), tokens.add("two", "client")
    held = tmp_path / "token"
    held.write_text(one + "\n")
    async with (
        guarded(AccessSettings(tokens=tokens.path), unary=who) as address,
        rpc_client.channel(address, token=f"@{held}") as channel,
    ):
        assert await Echo(channel).unary(b"") == b"one"
        held.write_text(two + "\n")
        assert await Echo(channel).unary(b"") == b"two"
        held.write_text("")
        assert await Echo(channel).unary(b"") == b"two"


def test_a_token_does_not_go_over_a_network_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as refused:
        rpc_client.channel("10.0.0.1:7070", token="secret-token")
    assert refused.value.reason == "TOKEN_IN_THE_CLEAR"
    assert "secret-token" not in str(refused.value)
    with pytest.raises(InvalidArgument) as unreadable:
        rpc_client.channel("127.0.0.1:7070", token=f"@{tmp_path / 'none'}")
    assert unreadable.value.reason == "BAD_TOKEN"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"jwt_issuer": ISSUER}, "jwt_issuer and jwt_keys go together"),
        ({"jwt_issuer": ISSUER, "jwt_keys": "keys.json", "jwt_audience": ""}, "jwt_audience"),
        ({"jwt_issuer": ISSUER, "jwt_keys": "http://issuer.test/keys"}, "https://"),
    ],
)
def test_settings_that_would_open_a_door_are_refused(given: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        AccessSettings.load(given)


def test_a_process_does_not_show_its_token() -> None:
    settings = AccessSettings.load({"token": "secret-token"})
    assert "secret-token" not in str(settings.shown()) + repr(settings)
    assert "secret-token" not in repr(rpc_client.Credentials.among_peers(settings))


async def test_metadata_is_bounded(tokens: Tokens) -> None:
    async with (
        guarded(AccessSettings(tokens=tokens.path)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Echo(channel).unary(b"", metadata=(("authorization", "Bearer " + "x" * 40_000),), timeout=10)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_guard_needs_tokens_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Guard(AccessSettings(tokens=tmp_path / "none.toml"), TABLE)
    assert refused.value.reason == "BAD_TOKENS"


def test_callers_of_processes_are_told_from_users() -> None:
    assert Caller("worker-0", frozenset({Role.WORKER})).process
    assert not Caller("root", frozenset({Role.ADMIN})).process
