"""RabbitMQ over TLS, which shows a certificate of a throw-away authority and wants one of it."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from support import rabbitmq
from support.brokers import QUEUE
from support.certificates import Authority, authority
from support.mailboxes import Receiver, message

from troupe.broker.port import Delivery
from troupe.broker.rabbitmq.broker import RabbitmqBroker
from troupe.chassis.errors import InvalidArgument, TroupeError


@dataclass
class Guarded:
    """A server with a port for TLS, its authority, and one that it does not know."""

    node: rabbitmq.Node
    port: int
    known: Authority
    stranger: Authority

    def url(self, ca: Path | None = None, shows: Authority | None = None, host: str = "127.0.0.1") -> str:
        chosen = {"cafile": ca, "certfile": shows and shows.cert, "keyfile": shows and shows.key}
        query = "&".join(f"{name}={path}" for name, path in chosen.items() if path is not None)
        return f"amqps://guest:guest@{host}:{self.port}?{query}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    known, stranger = authority(tmp_path_factory.mktemp("known")), authority(tmp_path_factory.mktemp("stranger"))
    with socket.socket() as free:
        # On every address of loopback, so that it can be called by one that is not in the certificate.
        free.bind(("0.0.0.0", 0))
        port = free.getsockname()[1]
    with rabbitmq.running(
        *(f"listeners.ssl.{number} = 127.0.0.{number}:{port}" for number in (1, 2)),
        f"ssl_options.cacertfile = {known.ca}",
        f"ssl_options.certfile = {known.cert}",
        f"ssl_options.keyfile = {known.key}",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
    ) as node:
        yield Guarded(node, port, known, stranger)


async def refusal(url: str) -> str:
    with pytest.raises(TroupeError) as refused:
        async with asyncio.timeout(20), RabbitmqBroker.opened(url, 1.0):
            pass
    assert "\n" not in str(refused.value)
    assert "guest:guest" not in str(refused.value)
    return f"{type(refused.value).__name__}: {refused.value}"


async def test_with_the_right_authority_and_certificate_messages_travel(guarded: Guarded) -> None:
    """Given messages of less than a frame and of many, when they go both ways over TLS and the server closes the
    connections in between, then each arrives as it was sent."""
    sent = [message(sequence, text="x" * (sequence % 3 * 200_000)) for sequence in range(1, 31)]
    vhost = guarded.node.vhost()
    url = guarded.url(guarded.known.ca, guarded.known).replace("?", f"/{vhost.rpartition('/')[2]}?")
    async with RabbitmqBroker.opened(url) as broker:
        await broker.declare(1)
        receiver = Receiver(on_delivery=Delivery.ack)
        await broker.consume(QUEUE, receiver)
        await broker.publish_many(sent[:15])
        await receiver.received(15)

        before = REGISTRY.get_sample_value("troupe_broker_reconnects_total") or 0.0
        await asyncio.to_thread(guarded.node.close_connections, vhost)
        await broker.publish_many(sent[15:])

        # What was acked just before the connection went comes again.
        await receiver.received_all(range(1, 31))
        assert (REGISTRY.get_sample_value("troupe_broker_reconnects_total") or 0.0) > before
    bodies = {number: delivery.body for number, delivery in zip(receiver.numbers, receiver.deliveries, strict=True)}
    assert [bodies[sequence] for sequence in range(1, 31)] == [one.SerializeToString() for one in sent]


async def test_an_authority_that_did_not_sign_its_certificate_is_refused_at_once(guarded: Guarded) -> None:
    said = await refusal(guarded.url(guarded.stranger.ca, guarded.known))
    assert said.startswith("FailedPrecondition: RabbitMQ at 127.0.0.1:")
    assert "not trusted ([SSL: CERTIFICATE_VERIFY_FAILED]" in said
    assert "name the authority that signed it with ?cafile=FILE" in said


async def test_the_systems_authorities_do_not_know_it(guarded: Guarded) -> None:
    assert "?cafile=FILE" in await refusal(guarded.url())


async def test_a_host_that_is_not_in_its_certificate_is_refused(guarded: Guarded) -> None:
    said = await refusal(guarded.url(guarded.known.ca, guarded.known, host="127.0.0.2"))
    assert "certificate is not valid for '127.0.0.2'" in said
    assert "and the host as the certificate does" in said


@pytest.mark.parametrize("shows", [None, "stranger"])
async def test_who_shows_no_certificate_of_its_authority_is_told_so(guarded: Guarded, shows: str | None) -> None:
    said = await refusal(guarded.url(guarded.known.ca, guarded.stranger if shows else None))
    assert "wants a certificate" in said
    assert "?certfile=FILE&keyfile=FILE" in said


async def test_tls_where_there_is_none_and_none_where_there_is(guarded: Guarded) -> None:
    plain = guarded.url(guarded.known.ca).replace(f":{guarded.port}", f":{guarded.node.port}")
    assert (await refusal(plain)).endswith("or begin the URL with amqp://")
    said = await refusal(guarded.url().replace("amqps://", "amqp://").rstrip("?"))
    assert "the port wants TLS (amqps://)" in said


async def test_files_that_cannot_be_used_are_named(tmp_path: Path, guarded: Guarded) -> None:
    known, stranger = guarded.known, guarded.stranger
    nowhere = tmp_path / "nowhere.pem"
    assert f"cafile {nowhere} cannot be used" in await refusal(guarded.url(nowhere))
    mixed = guarded.url(known.ca, Authority(known.ca, known.cert, stranger.key))
    assert f"certfile {known.cert} and keyfile {stranger.key} cannot be used" in await refusal(mixed)
    for url in (guarded.url(known.ca) + f"&certfile={known.cert}", guarded.url(known.ca) + f"&keyfile={known.key}"):
        with pytest.raises(InvalidArgument, match="certfile and keyfile go together"):
            async with RabbitmqBroker.opened(url):
                pass
