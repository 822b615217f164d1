"""What is asked of a Redis before anything is entrusted to it, at each connection: the server may be another one."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.chassis.redis_address import Address, refused
from troupe.chassis.tls_fault import TlsFault, fault

OLDEST = (6, 2)
"""What the scripts need: ZADD LT."""
WITH_WAITAOF = (7, 2)
"""From here on a server says, of one connection's writes, that they are on its disk."""
LEAVE = 0.5
DURABLE = {
    "appendonly": ("yes", "Redis keeps no append-only file, so a restart loses {kept}"),
    "appendfsync": ("always", "Redis answers before a write is on disk, so a crash loses {confirmed}"),
    "no-appendfsync-on-rewrite": (
        "no",
        "Redis answers before a write is on disk while it rewrites its append-only file, so a crash loses {confirmed}",
    ),
    "maxmemory-policy": ("noeviction", "Redis drops keys when its memory is full, and with them parts of {kept}"),
}
"""What each setting must be, and what is wrong where it is not."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a server is asked to keep, in the words of what is said when it would not."""

    store: str
    """As in `the STORE needs Redis 6.2`."""
    kept: str
    """As in `a restart loses KEPT`."""
    confirmed: str
    """As in `a crash loses CONFIRMED`."""
    otherwise: str
    """What to do where it may lose them: the end of the sentence, after a comma."""


Ask = Callable[..., Awaitable[Any]]
"""Sends one command and returns its reply."""


@dataclass(frozen=True, slots=True)
class Server:
    """What was found."""

    version: tuple[int, int]
    confirms: bool
    """It says itself that writes are on disk (WAITAOF)."""


async def connected(
    pool: ConnectionPool, address: Address, use: Use, scripts: Iterable[bytes], *, allow_volatile: bool, patience: float
) -> tuple[Connection, Server]:
    """A connection to a server that was examined and knows the scripts, within `patience` seconds. Raises what
    `examined` does, and Unavailable where no Redis answers there."""
    connection = made(pool)

    async def ask(*command: bytes | str) -> Any:
        await connection.send_packed_command(packed(command), check_health=False)
        return await connection.read_response(disable_decoding=True, disconnect_on_error=False)

    try:
        async with asyncio.timeout(patience):
            await connection.connect()  # type: ignore[no-untyped-call]
            server = await examined(ask, use, allow_volatile=allow_volatile)
            for script in scripts:
                await ask("SCRIPT", "LOAD", script)
    except BaseException as error:
        # Judged first: what closing raises may be the cause itself, which Python then unlinks from the error.
        unusable = None
        if isinstance(error, RedisError | OSError):
            unusable = _unusable(address.shown, use, error, tls=isinstance(connection, SSLConnection))
        await leave(connection)
        if unusable is not None:
            raise unusable from error
        raise
    return connection, server


async def leave(connection: Connection) -> None:
    """Close it, and wait LEAVE seconds at most for TLS to take its leave, or for what is written to go out."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEAVE):
            await connection.disconnect()


def pooled(address: Address, use: Use) -> ConnectionPool:
    """What makes connections to the address; retries, deadlines and reconnecting are the caller's. Raises
    InvalidArgument for options that the client refuses."""
    try:
        pool = ConnectionPool.from_url(
            address.url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=None, driver_info=None
        )
        made(pool)
    except (ValueError, TypeError) as error:
        raise refused(use.store, str(error)) from error
    return pool


def made(pool: ConnectionPool) -> Connection:
    """A connection that is not connected yet. Raises ValueError and TypeError for options that there are not, and for
    certificates that cannot be used."""
    connection: Connection = pool.make_connection()  # type: ignore[no-untyped-call]
    if isinstance(connection, SSLConnection):
        try:
            connection.ssl_context.get()
        except OSError as error:
            raise ValueError(f"its ssl_ca_certs, ssl_certfile and ssl_keyfile cannot be used: {error}") from error
    return connection


def packed(command: tuple[bytes | str | int, ...]) -> bytes:
    """The command as it is written to the connection."""
    written: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return written


def said(error: BaseException) -> str:
    """What an error says, and what it is where it says nothing."""
    return str(error) or type(error).__name__


async def examined(ask: Ask, use: Use, *, allow_volatile: bool) -> Server:
    """The server, if it can be used so. Raises FailedPrecondition: one sentence with what, why and what
    to do. `allow_volatile` asks nothing about durability."""
    info = await _info(ask)
    version = _version(info.get("redis_version", ""))
    if version < OLDEST:
        raise FailedPrecondition(
            "REDIS_TOO_OLD",
            f"Redis {info.get('redis_version', 'of unknown version')} is too old: the {use.store} needs "
            f"{OLDEST[0]}.{OLDEST[1]} or newer",
        )
    if info.get("redis_mode") == "cluster" or info.get("cluster_enabled") == "1":
        raise FailedPrecondition(
            "REDIS_CLUSTER",
            f"this Redis is a node of a cluster, and the {use.store} speaks to one server: name a Redis that is none",
        )
    if info.get("role") != "master":
        raise FailedPrecondition(
            "REDIS_REPLICA",
            f"this Redis is a replica of {info.get('master_host', '?')}:{info.get('master_port', '?')} and takes no "
            "writes: name its master",
        )
    if not allow_volatile:
        await _durable(ask, use)
    confirms = version >= WITH_WAITAOF and info.get("aof_enabled") == "1" and not allow_volatile
    return Server(version, confirms)


async def _info(ask: Ask) -> dict[str, str]:
    try:
        reply = await ask("INFO")
    except NoPermissionError as error:
        raise FailedPrecondition(
            "REDIS_PERMISSION", f"this user of Redis may not run INFO ({error}): permit it, with CONFIG|GET and EVALSHA"
        ) from error
    lines = reply.decode().splitlines() if isinstance(reply, bytes) else []
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


async def _durable(ask: Ask, use: Use) -> None:
    for setting, (needed, wrong) in DURABLE.items():
        try:
            reply = await ask("CONFIG", "GET", setting)
        except ResponseError as error:
            raise FailedPrecondition(
                "REDIS_UNCHECKED",
                f"this Redis does not let its settings be read ({error}), so nobody can say whether it keeps what it "
                f"confirms: permit CONFIG GET, {use.otherwise}",
            ) from error
        found = reply[1].decode() if len(reply) == 2 else ""
        if found != needed:
            loss = wrong.format(kept=use.kept, confirmed=use.confirmed)
            raise FailedPrecondition(
                "REDIS_VOLATILE", f"{loss}: set {setting} to {needed} (it is {found or 'unknown'}), {use.otherwise}"
            )


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _unusable(shown: str, use: Use, error: Exception, *, tls: bool) -> TroupeError:
    match fault(_causes(error)):
        case TlsFault.UNTRUSTED:
            return FailedPrecondition(
                "REDIS_UNTRUSTED",
                f"Redis at {shown} shows a certificate that is not trusted ({error}): name the authority that signed "
                "it with ?ssl_ca_certs=FILE, and the host as the certificate does",
            )
        case TlsFault.REFUSED:
            return FailedPrecondition(
                "REDIS_REFUSES",
                f"Redis at {shown} wants a certificate of an authority that it trusts: name one with "
                "?ssl_certfile=FILE&ssl_keyfile=FILE",
            )
        case TlsFault.PLAIN:
            return FailedPrecondition(
                "NOT_REDIS", f"what listens at {shown} does not speak TLS: correct the port, or begin with redis://"
            )
    match error:
        case AuthenticationError():
            return FailedPrecondition(
                "REDIS_PASSWORD",
                f"Redis at {shown} refuses user or password ({error}): correct them in the URL, "
                "redis://[USER]:PASSWORD@HOST:PORT",
            )
        case BusyLoadingError():
            return Unavailable("REDIS_LOADING", f"Redis at {shown} still loads its data: try again")
        case InvalidResponse():
            return FailedPrecondition(
                "NOT_REDIS", f"what listens at {shown} is no Redis ({error}): correct host and port"
            )
        case ResponseError():
            return FailedPrecondition("REDIS_REFUSES", f"Redis at {shown} refuses what the {use.store} needs: {error}")
    return Unavailable(
        "REDIS_UNREACHABLE",
        f"no Redis answers at {shown} ({said(error)}): start it, or correct the URL{_otherwise(error, tls=tls)}",
    )


def _otherwise(error: BaseException, *, tls: bool) -> str:
    """How what listens might answer, where something does."""
    if not any(isinstance(cause, ConnectionResetError | TimeoutError) for cause in _causes(error)):
        return ""
    if tls:
        return ", if it wants no TLS (redis://), or a certificate (?ssl_certfile=FILE&ssl_keyfile=FILE)"
    return ", if it wants TLS (rediss://)"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
