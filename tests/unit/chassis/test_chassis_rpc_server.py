"""What every server has besides its service, and where it listens."""

import asyncio
import struct
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.echo import SERVICE, echo
from support.serving_echo import EchoSettings, serving_echo

from troupe.chassis import rpc_client
from troupe.chassis.errors import (
    FailedPrecondition,
    NotFound,
)
from troupe.chassis.rpc import serving


async def test_health_says_what_the_service_says() -> None:
    async with serving_echo() as (server, _), rpc_client.channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def check(service: str) -> int:
            status: int = (await health.Check(health_pb2.HealthCheckRequest(service=service))).status
            return status

        known = health_pb2.HealthCheckResponse
        assert [await check(""), await check(SERVICE)] == [known.SERVING, known.SERVING]
        await server.set_health("", serving=False)
        assert [await check(""), await check(SERVICE)] == [known.NOT_SERVING, known.SERVING]
        await server.set_health("", serving=True)
        await server.set_health(SERVICE, serving=False)
        assert [await check(""), await check(SERVICE)] == [known.SERVING, known.NOT_SERVING]


async def test_reflection_and_channelz_answer() -> None:
    async with serving_echo() as (server, _), rpc_client.channel(server.address) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        [answer] = [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
        assert {service.name for service in answer.list_services_response.service} == {
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.channelz.v1.Channelz",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        channelz = channelz_pb2_grpc.ChannelzStub(channel)
        assert (await channelz.GetServers(channelz_pb2.GetServersRequest())).server


async def test_a_stopped_server_leaves_its_port() -> None:
    async with serving_echo() as (server, _):
        address = server.address
    async with serving_echo(EchoSettings(listen=address)) as (again, client):
        assert again.address == address
        assert await client.unary(b"ab") == b"ab"


async def test_a_busy_port_that_was_asked_for_is_refused_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving_echo() as (server, _):
        with pytest.raises(FailedPrecondition, match=r"in use at 127\.0\.0\.1: name another with --listen") as caught:
            async with serving(EchoSettings(listen=server.address), echo()):
                pytest.fail("two servers at one port")
    assert caught.value.reason == "PORT_IN_USE"
    assert "bind" not in capfd.readouterr().err


async def test_a_busy_default_port_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_echo() as (first, _):
        port = int(first.address.rpartition(":")[2])
        busy = EchoSettings.model_construct(
            _fields_set=set(), **{**EchoSettings().model_dump(), "listen": first.address}
        )
        async with serving_echo(busy) as (second, client):
            assert port < int(second.address.rpartition(":")[2]) < port + 100
            assert await client.unary(b"ab") == b"ab"


async def test_localhost_is_bound_whole() -> None:
    async with serving_echo(EchoSettings(listen="localhost:0")) as (server, client):
        assert server.address.startswith("127.0.0.1:")
        assert await client.unary(b"ab") == b"ab"


async def test_a_service_that_fails_to_register_leaves_nothing_behind() -> None:
    def register(_server: grpc.aio.Server) -> list[str]:
        raise NotFound("MISSING", "no such thing")

    with pytest.raises(NotFound):
        async with serving(EchoSettings(), register):
            pytest.fail("serves")


async def test_clients_that_ping_too_often_are_cut_off() -> None:
    async with serving_echo() as (server, _):
        host, port = server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        pings = [frame(kind=6, payload=struct.pack(">Q", number)) for number in range(10)]
        writer.write(b"".join([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(kind=4), *pings]))
        async with asyncio.timeout(10):
            await reader.readuntil(b"too_many_pings")
        writer.close()


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame of the connection itself."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload
