import contextlib
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Counter
from support.certificates import Authority

from troupe.chassis import metrics
from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.chassis.service import ServiceSettings

SEEN = Counter("troupe_test_seen", "Things that this test saw")


@contextlib.contextmanager
def exposing(**settings: object) -> Iterator[str]:
    with metrics.exposing(ServiceSettings.model_validate({"metrics_listen": "127.0.0.1:0"} | settings)) as address:
        yield address


def fetch(url: str, context: ssl.SSLContext | None = None, **headers: str) -> tuple[str, str]:
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=5, context=context) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_metrics_are_served_while_inside_and_not_after() -> None:
    SEEN.inc()
    with exposing() as address:
        kind, text = fetch(f"http://{address}/metrics")
        assert kind.startswith("text/plain")
        assert "troupe_test_seen_total 1.0" in text
        assert "troupe_rpc_server_calls_total" in text
        assert "process_resident_memory_bytes" in text
    host, port = address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


def test_openmetrics_is_served_to_those_who_ask() -> None:
    with exposing() as address:
        kind, text = fetch(f"http://{address}/metrics", Accept="application/openmetrics-text")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_an_empty_address_serves_none() -> None:
    with exposing(metrics_listen="") as address:
        assert address == ""


def test_a_busy_port_that_was_asked_for_is_refused() -> None:
    with (
        exposing() as address,
        pytest.raises(FailedPrecondition, match="--metrics-listen"),
        exposing(metrics_listen=address),
    ):
        pytest.fail("two endpoints at one port")


def test_busy_default_ports_move_on() -> None:
    with metrics.exposing(ServiceSettings()) as first, metrics.exposing(ServiceSettings()) as second:
        assert first != second
        fetch(f"http://{second}/metrics")


def test_off_loopback_the_endpoint_needs_tls_or_a_word(
    authorities: tuple[Authority, Authority], tmp_path: Path
) -> None:
    with (
        pytest.raises(InvalidArgument, match="can be reached from other machines"),
        exposing(metrics_listen="0.0.0.0:0"),
    ):
        pytest.fail("serves in the clear")
    with exposing(metrics_listen="0.0.0.0:0", insecure=True) as address:
        fetch(f"http://{address}/metrics")


def test_off_loopback_certificates_are_followed(authorities: tuple[Authority, Authority], tmp_path: Path) -> None:
    before, after = authorities
    installed = before.install(tmp_path)
    with exposing(metrics_listen="0.0.0.0:0", tls_cert=installed.cert, tls_key=installed.key) as address:
        url = f"https://localhost:{address.rpartition(':')[2]}/metrics"
        fetch(url, trusting(before))
        after.install(tmp_path)
        fetch(url, trusting(after))
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(url, trusting(before))


def test_off_loopback_clients_prove_themselves_where_they_must(authorities: tuple[Authority, Authority]) -> None:
    ours, _ = authorities
    with exposing(metrics_listen="0.0.0.0:0", tls_cert=ours.cert, tls_key=ours.key, tls_ca=ours.ca) as address:
        url = f"https://localhost:{address.rpartition(':')[2]}/metrics"
        with pytest.raises(OSError, match=r"(?i)certificate required|alert|reset|eof"):
            fetch(url, trusting(ours))
        known = trusting(ours)
        known.load_cert_chain(ours.cert, ours.key)
        fetch(url, known)


def test_a_silent_client_keeps_nobody_waiting(authorities: tuple[Authority, Authority]) -> None:
    ours, _ = authorities
    with exposing(metrics_listen="0.0.0.0:0", tls_cert=ours.cert, tls_key=ours.key) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            fetch(f"https://localhost:{port}/metrics", trusting(ours))


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca))
