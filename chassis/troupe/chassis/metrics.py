"""The Prometheus endpoint, and what the chassis itself counts."""

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app

from troupe.chassis import address, tls
from troupe.chassis.service import ServiceSettings

log = structlog.get_logger()

RPC_CALLS = Counter("troupe_rpc_server_calls", "gRPC calls that this process answered, by end", ["method", "code"])
RPC_RUNNING = Gauge("troupe_rpc_server_running_calls", "gRPC calls that this process is answering now", ["method"])
RPC_SECONDS = Histogram(
    "troupe_rpc_server_duration_seconds",
    "Time that gRPC calls with a single answer took, from the request's arrival to the answer",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)

RPC_DENIED = Counter(
    "troupe_rpc_server_denied",
    "gRPC calls that were denied for their caller, by the role missing (empty: another reason) and why",
    ["method", "role", "reason"],
)


@contextlib.contextmanager
def exposing(settings: ServiceSettings) -> Iterator[str]:
    """Serve this process's metrics at `metrics_listen`; gives the `host:port` really bound, "" when it is empty.

    The endpoint is served by threads, so that it answers while the event loop is stuck. A taken port moves on as
    that of a service does. Off loopback the rule of TLS holds. Raises what `address.bound` and `tls.guarding` do.
    """
    if not settings.metrics_listen:
        yield ""
        return
    certificates = tls.guarding(settings, settings.metrics_listen) if _reachable(settings.metrics_listen) else None
    server = address.bound(
        settings.metrics_listen,
        _Server,
        asked="metrics_listen" in settings.model_fields_set,
        setting="metrics_listen",
    )
    if certificates is not None:
        server.socket = _wrapped(server, certificates)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield str(server.bound)
    finally:
        with contextlib.suppress(OSError):
            server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which would sleep for half a second
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, wanted: address.Address) -> None:
        super().__init__((wanted.host, wanted.port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = address.bind(wanted)
        self.bound = address.Address(wanted.host, self.socket.getsockname()[1])
        self.server_name, self.server_port = self.bound.host, self.bound.port
        self.setup_environ()
        self.set_app(make_wsgi_app())

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("metrics client failed", client=str(client_address), error=repr(sys.exc_info()[1]))


class _Handler(WSGIRequestHandler):
    timeout = 10
    """Seconds of silence after which a client is given up."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _reachable(listen: str) -> bool:
    return not address.Address.parse(listen).loopback


def _wrapped(server: _Server, certificates: tls.Certificates) -> ssl.SSLSocket:
    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if certificates.refresh():
            current.append(certificates.server_context())
            del current[0]
        connection.context = current[0]

    current = [certificates.server_context()]
    current[0].sni_callback = renew
    # The handshake is the handler's: in `accept` a silent client would hold up every other.
    return current[0].wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
