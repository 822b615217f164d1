"""From a URL to what pika needs to connect."""

import ssl
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import pika
from pika.connection import SSLOptions

from troupe.chassis.errors import InvalidArgument

HEARTBEAT = 5
"""Seconds between signs of life. A peer that gives none is given up after two to three times as long."""
_CONNECT_TIMEOUT = 5.0
_OPEN_TIMEOUT = 10.0
"""Seconds for the TCP connection, and for all that follows until the vhost is open."""
_PORTS = {"amqp": 5672, "amqps": 5671}
_OPTIONS = {"amqp": ("heartbeat",), "amqps": ("heartbeat", "cafile", "certfile", "keyfile")}


def parameters(url: str, name: str) -> pika.ConnectionParameters:
    """`amqp://USER:PASSWORD@HOST:PORT/VHOST` or `amqps://…`, where all but the host has the usual defaults, and
    the options are `heartbeat`, 1 to 60 seconds, and for `amqps` `cafile`, in place of the system's authorities, and
    `certfile` with `keyfile`, to prove who calls. `name` is what the server's operators see. Raises InvalidArgument,
    without the password in it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad(str(error)) from error
    if parts.scheme not in _PORTS:
        raise _bad("it begins with neither amqp:// nor amqps://")
    if not host:
        raise _bad("it names no host")
    options = _options(parts)
    return pika.ConnectionParameters(
        host=host,
        port=port or _PORTS[parts.scheme],
        virtual_host=_vhost(parts.path),
        credentials=pika.PlainCredentials(unquote(parts.username or "guest"), unquote(parts.password or "guest")),
        heartbeat=_heartbeat(options.get("heartbeat", str(HEARTBEAT))),
        socket_timeout=_CONNECT_TIMEOUT,
        stack_timeout=_OPEN_TIMEOUT,
        ssl_options=_tls(options, host) if parts.scheme == "amqps" else None,
        client_properties={"connection_name": name, "product": "Troupe"},
    )


def shown(url: str) -> str:
    """The URL for people: without credentials and options."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _vhost(path: str) -> str:
    name = path.removeprefix("/")
    if "/" in name:
        raise _bad(f"its vhost has a slash, which is written %2F: {name!r}")
    return unquote(name) or "/"


def _options(parts: SplitResult) -> dict[str, str]:
    options, known = dict(parse_qsl(parts.query, keep_blank_values=True)), _OPTIONS[parts.scheme]
    for option in options:
        if option not in known:
            raise _bad(f"it has no option {option!r}; {parts.scheme} has {', '.join(known)}")
    return options


def _heartbeat(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 60:
        raise _bad(f"its heartbeat must be 1 to 60 seconds, not {text!r}")
    return int(text)


def _tls(options: Mapping[str, str], host: str) -> SSLOptions:
    ca, cert, key = (options.get(name) for name in ("cafile", "certfile", "keyfile"))
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise _bad(f"its cafile {ca} cannot be used: {error}") from error
    if (cert is None) != (key is None):
        raise _bad("certfile and keyfile go together")
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:
            raise _bad(f"its certfile {cert} and keyfile {key} cannot be used: {error}") from error
    return SSLOptions(context, host)


def _bad(why: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_BROKER_URL", f"the broker's URL must be amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…; {why}"
    )
