"""Redis over TLS, which shows a certificate of a throw-away authority and may want one of it."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import redis_server
from support.certificates import Authority, authority
from support.redis_server import RedisServer
from support.state_stores import OWNER

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, TroupeError
from troupe.chassis.ids import uuid7
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.redis import link


@dataclass
class Guarded:
    """A server with a port for TLS, its authority, and one that it does not know."""

    server: RedisServer
    port: int
    known: Authority
    stranger: Authority

    def url(self, ca: Path | None = None, shows: Authority | None = None, scheme: str = "rediss") -> str:
        chosen = {"ssl_ca_certs": ca, "ssl_certfile": shows and shows.cert, "ssl_keyfile": shows and shows.key}
        query = "".join(f"&{name}={path}" for name, path in chosen.items() if path is not None)
        return f"{scheme}://127.0.0.1:{self.port}?prefix={uuid7()}{query}"


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    known, stranger = authority(tmp_path_factory.mktemp("known")), authority(tmp_path_factory.mktemp("stranger"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with redis_server.running(
        tmp_path_factory.mktemp("redis"),
        tls_port=str(port),
        tls_cert_file=str(known.cert),
        tls_key_file=str(known.key),
        tls_ca_cert_file=str(known.ca),
    ) as server:
        yield Guarded(server, port, known, stranger)


@pytest.fixture(params=["no", "yes"])
def wants(request: pytest.FixtureRequest) -> bool:
    return str(request.param) == "yes"


@pytest.fixture
def guarded(own_server: Guarded, wants: bool) -> Guarded:
    """It wants certificates of its clients, or not."""
    own_server.server.ask("CONFIG", "SET", "tls-auth-clients", "yes" if wants else "no")
    return own_server


async def opened(url: str) -> None:
    async with connected(url) as store:
        await store.declare(1)
        await store.claim(OWNER)


async def refusal(url: str) -> TroupeError:
    with pytest.raises(TroupeError) as refused:
        await opened(url)
    assert "\n" not in str(refused.value)
    return refused.value


async def test_with_the_right_authority_sessions_are_stored(guarded: Guarded, wants: bool) -> None:
    await opened(guarded.url(guarded.known.ca, guarded.known))
    if wants:
        assert "certificate" in str(await refusal(guarded.url(guarded.known.ca)))
        assert "certificate" in str(await refusal(guarded.url(guarded.known.ca, guarded.stranger)))
    else:
        await opened(guarded.url(guarded.known.ca))


async def test_an_authority_that_did_not_sign_its_certificate_is_refused(guarded: Guarded) -> None:
    for url in (guarded.url(guarded.stranger.ca, guarded.known), guarded.url(None, guarded.known)):
        refused = await refusal(url)
        assert isinstance(refused, FailedPrecondition)
        assert refused.reason == "REDIS_UNTRUSTED"
        assert "CERTIFICATE_VERIFY_FAILED" in str(refused)
        assert "name the authority that signed it with ?ssl_ca_certs=FILE" in str(refused)


async def test_tls_where_there_is_none_and_none_where_there_is(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PATIENCE", 1.5)
    plain = guarded.url(guarded.known.ca).replace(f":{guarded.port}", f":{guarded.server.port}")
    assert "if it wants no TLS (redis://)" in str(await refusal(plain))
    assert "if it wants TLS (rediss://)" in str(await refusal(guarded.url(scheme="redis")))


async def test_files_that_cannot_be_used_are_said_to_be_so(guarded: Guarded, tmp_path: Path) -> None:
    known = guarded.known
    mixed = Authority(known.ca, known.cert, guarded.stranger.key)
    for url in (guarded.url(tmp_path / "nowhere.pem"), guarded.url(known.ca, mixed)):
        refused = await refusal(url)
        assert isinstance(refused, InvalidArgument)
        assert "ssl_ca_certs, ssl_certfile and ssl_keyfile cannot be used" in str(refused)
