import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import ports
from support.certificates import Authority
from support.echo import Echo, echo
from support.serving_echo import EchoSettings, serving_echo

from troupe.chassis import rpc_client
from troupe.chassis.errors import InvalidArgument, TroupeError, Unavailable
from troupe.chassis.rpc import serving
from troupe.chassis.rpc_client import CALL_TIMEOUT, ClientTls, translated
from troupe.chassis.service import ServiceSettings

Authorities = tuple[Authority, Authority]


def tls_settings(installed: Authority, *, mutual: bool = False) -> ServiceSettings:
    return ServiceSettings(
        tls_cert=installed.cert, tls_key=installed.key, tls_ca=installed.ca if mutual else None, stop_grace=0
    )


async def ask(address: str, tls: ClientTls | None) -> bytes:
    async with rpc_client.channel(address, tls) as channel:
        answer: bytes = await Echo(channel).unary(b"ab", timeout=5)
        return answer


async def refused(address: str, tls: ClientTls | None) -> str:
    """Why there was no connection."""
    with pytest.raises(Unavailable) as caught, translated():
        await ask(address, tls)
    return str(caught.value)


async def test_a_new_channel_is_not_told_what_an_older_one_found_at_the_address() -> None:
    (port,) = ports.free()
    address = f"127.0.0.1:{port}"
    async with rpc_client.channel(address) as older:
        with pytest.raises(Unavailable), translated():
            await Echo(older).unary(b"", timeout=5)
        async with serving_echo(EchoSettings(listen=address)) as (_, client):
            assert await client.unary(b"ab", timeout=5) == b"ab"


async def test_a_server_that_is_down_is_named() -> None:
    with pytest.raises(Unavailable) as caught, translated():
        await ask("127.0.0.1:1", None)
    assert caught.value.reason == "UNAVAILABLE"
    assert str(caught.value) == "no answer from 127.0.0.1:1: Connection refused; check that it runs there"


async def test_unary_calls_have_a_deadline_and_streams_have_none_unless_given() -> None:
    seen: list[float | None] = []

    async def looks(request: bytes, context: Any) -> bytes:
        seen.append(context.time_remaining())
        return request

    async def looks_in_a_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await looks(request, context)

    async with (
        serving(ServiceSettings(), echo(unary=looks, answers=looks_in_a_stream)) as server,
        rpc_client.channel(server.address) as channel,
    ):
        client = Echo(channel)
        await client.unary(b"")
        await client.unary(b"", timeout=60)
        await client.answers(b"").read()
        await client.answers(b"", timeout=60).read()
    default, longer, none, given = seen
    assert default == pytest.approx(CALL_TIMEOUT, abs=2)
    assert longer == pytest.approx(60, abs=2)
    assert none is None
    assert given == pytest.approx(60, abs=2)


async def test_a_channel_finds_a_server_that_comes_back() -> None:
    async with serving(ServiceSettings(stop_grace=0), echo()) as server:
        address = server.address
        channel = rpc_client.channel(address)
        client = Echo(channel)
        assert await client.unary(b"one") == b"one"
    async with channel:
        with pytest.raises(Unavailable), translated():
            await client.unary(b"none")
        async with serving(ServiceSettings(listen=address), echo()):
            assert await client.unary(b"two", wait_for_ready=True, timeout=5) == b"two"


async def test_closing_ends_calls_in_flight() -> None:
    async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with serving(ServiceSettings(), echo(answers=endless)) as server:
        channel = rpc_client.channel(server.address)
        call = Echo(channel).answers(b"")
        assert await call.read() == b"x"
        await channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call.read()


async def test_states_of_a_channel_can_be_watched() -> None:
    async with serving(ServiceSettings(), echo()) as server, rpc_client.channel(server.address) as channel:
        async with asyncio.timeout(10):
            await channel.channel_ready()
            assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_tls_proves_the_server(authorities: Authorities, tmp_path: Path) -> None:
    ours, theirs = authorities
    async with serving(tls_settings(ours.install(tmp_path)), echo()) as server:
        assert await ask(server.address, ClientTls(ca=ours.ca)) == b"ab"
        assert "CERTIFICATE_VERIFY_FAILED" in await refused(server.address, ClientTls(ca=theirs.ca))
        await refused(server.address, None)


async def test_mutual_tls_proves_the_client_too(authorities: Authorities, tmp_path: Path) -> None:
    ours, theirs = authorities
    async with serving(tls_settings(ours.install(tmp_path), mutual=True), echo()) as server:
        assert await ask(server.address, ClientTls(ours.ca, ours.cert, ours.key)) == b"ab"
        await refused(server.address, ClientTls(ca=ours.ca))
        await refused(server.address, ClientTls(ours.ca, theirs.cert, theirs.key))


async def test_a_server_takes_changed_certificates(authorities: Authorities, tmp_path: Path) -> None:
    before, after = authorities
    async with serving(tls_settings(before.install(tmp_path)), echo()) as server:
        assert await ask(server.address, ClientTls(ca=before.ca)) == b"ab"
        after.install(tmp_path)
        assert await ask(server.address, ClientTls(ca=after.ca)) == b"ab"
        assert "CERTIFICATE_VERIFY_FAILED" in await refused(server.address, ClientTls(ca=before.ca))


async def test_a_half_done_rotation_keeps_the_old_certificate(authorities: Authorities, tmp_path: Path) -> None:
    before, after = authorities
    installed = before.install(tmp_path)
    async with serving(tls_settings(installed), echo()) as server:
        installed.key.write_bytes(after.key.read_bytes())
        assert await ask(server.address, ClientTls(ca=before.ca)) == b"ab"
        after.install(tmp_path)
        assert await ask(server.address, ClientTls(ca=after.ca)) == b"ab"


async def test_a_client_takes_changed_certificates_while_its_streams_go_on(
    authorities: Authorities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_client, "_LOOK_AGAIN", 0.0)
    before, after = authorities
    go_on = asyncio.Event()

    async def shown(_request: bytes, context: Any) -> bytes:
        """The certificate that the client showed."""
        [certificate] = context.auth_context()["x509_pem_cert"]
        return bytes(certificate)

    async def slow(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"a"
        await go_on.wait()
        yield b"b"

    # Given a client with a stream on its first connection
    ours, theirs = before.install(tmp_path / "client"), before.install(tmp_path / "server")
    tls = ClientTls(ours.ca, ours.cert, ours.key)
    async with (
        serving(tls_settings(theirs, mutual=True), echo(unary=shown, answers=slow)) as server,
        rpc_client.channel(server.address, tls) as channel,
    ):
        client = Echo(channel)
        stream = client.answers(b"")
        assert await stream.read() == b"a"
        assert await client.unary(b"") == before.cert.read_bytes()
        # When server and client get certificates of another authority
        after.install(tmp_path / "server")
        after.install(tmp_path / "client")
        # Then new calls show the new one, and the stream goes on
        assert await client.unary(b"") == after.cert.read_bytes()
        assert await client.answers(b"").read() == b"a"
        go_on.set()
        assert await stream.read() == b"b"


async def test_files_that_do_not_fit_are_refused_when_the_channel_is_made(authorities: Authorities) -> None:
    ours, theirs = authorities
    with pytest.raises(InvalidArgument) as caught:
        rpc_client.channel("127.0.0.1:1", ClientTls(ours.ca, ours.cert, theirs.key))
    assert caught.value.reason == "BAD_TLS"


async def test_an_error_of_the_server_keeps_grpcs_as_its_cause() -> None:
    async def fails(_request: bytes, _context: Any) -> bytes:
        raise InvalidArgument("BAD", "no")

    async with serving(ServiceSettings(), echo(unary=fails)) as server:
        with pytest.raises(TroupeError) as caught, translated():
            await ask(server.address, None)
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
