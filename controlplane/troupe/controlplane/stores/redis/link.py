"""One connection to Redis, made anew when it breaks: one call at a time."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio.connection import Connection, ConnectionPool
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from troupe.chassis.errors import DataLoss, FailedPrecondition, Internal, TroupeError, Unavailable
from troupe.chassis.redis_address import Address
from troupe.chassis.redis_server import Server, Use, connected, leave, packed, pooled, said
from troupe.controlplane.stores.redis.scripts import SCRIPTS, Script

USE = Use(
    store="revision store",
    kept="revisions",
    confirmed="revisions that were confirmed",
    otherwise="or name another store with --store",
)
PATIENCE = 5.0
"""Seconds that a call may take, waiting for those before it and connecting included."""
TRANSIENT = re.compile(r"\b(OOM|BUSY|MISCONF|READONLY|MASTERDOWN|NOREPLICAS)\b")
"""What replies say that another try may not get. Redis says each of them before a script's first write."""


class Link:
    """Calls scripts. A call that fails is Unavailable, and nobody knows whether it was carried out; DataLoss, where a
    key holds something else; or Internal, a defect. While a server is refused, so is each call, for that reason."""

    def __init__(self, pool: ConnectionPool, address: Address, *, allow_volatile: bool) -> None:
        self._pool, self._address, self._allow_volatile = pool, address, allow_volatile
        self._turn = asyncio.Lock()
        self._connected: tuple[Connection, Server] | None = None

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(address: Address, *, allow_volatile: bool) -> AsyncIterator["Link"]:
        """The link, connected. Raises InvalidArgument for a URL that the client refuses, FailedPrecondition for a
        server that nothing can be entrusted to, Unavailable where none answers."""
        link = Link(pooled(address, USE), address, allow_volatile=allow_volatile)
        link._connected = await link._connect()
        try:
            yield link
        finally:
            await link._disconnect()

    async def call(self, script: Script, key: str, *arguments: bytes | str | int) -> Any:
        """The script's reply. A caller that is cancelled does not know whether the script is carried out."""
        try:
            async with asyncio.timeout(PATIENCE), self._turn:
                return await self._called(script, key, *arguments)
        except TimeoutError as error:
            raise self._unavailable(f"no answer for {PATIENCE:.0f} s") from error
        except ResponseError as error:
            raise self._error(error) from error
        except (RedisError, OSError) as error:
            raise self._unavailable(said(error)) from error
        except FailedPrecondition as error:
            # Another server may answer there by now, or this one was set otherwise. Until it is taken, nothing is done.
            raise self._unavailable(str(error)) from error

    async def _called(self, script: Script, key: str, *arguments: bytes | str | int) -> Any:
        if self._connected is None:
            self._connected = await self._connect()
        connection, server = self._connected
        try:
            try:
                return await _asked(connection, server, "EVALSHA", script.digest, 1, key, *arguments)
            except NoScriptError:
                return await _asked(connection, server, "EVAL", script.body, 1, key, *arguments)
        except ResponseError as error:
            if _transient(error):
                await self._disconnect()  # the next connection may reach a server that can
            raise
        except BaseException:
            # An answer may still be on its way, which is no other call's.
            await self._disconnect()
            raise

    async def _connect(self) -> tuple[Connection, Server]:
        bodies = (script.body for script in SCRIPTS)
        return await connected(
            self._pool, self._address, USE, bodies, allow_volatile=self._allow_volatile, patience=PATIENCE
        )

    async def _disconnect(self) -> None:
        if self._connected is not None:
            (connection, _), self._connected = self._connected, None
            await leave(connection)

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(
            "STORE_UNAVAILABLE",
            f"the revision store, Redis at {self._address.shown}, cannot be used ({reason}); what was asked may have "
            "been carried out or not: ask again",
        )

    def _error(self, reply: ResponseError) -> TroupeError:
        text = said(reply)
        if _transient(reply):
            return self._unavailable(text)
        if "WRONGTYPE" in text:
            return DataLoss(
                "DATA_FOREIGN_KEY",
                f"a key of the revision store in Redis at {self._address.shown} holds something else ({text}): another "
                f"program writes keys that begin with {self._address.prefix}; give one of the two another prefix",
            )
        return Internal("STORE_SCRIPT", f"a script of the revision store failed in {self._address.shown}: {text}")


def _transient(reply: ResponseError) -> bool:
    named = isinstance(reply, OutOfMemoryError | ReadOnlyError | MasterDownError)
    return named or TRANSIENT.search(said(reply)) is not None


async def _asked(connection: Connection, server: Server, *command: bytes | str | int) -> Any:
    confirmation = packed(("WAITAOF", 1, 0, 0)) if server.confirms else b""
    await connection.send_packed_command(packed(command) + confirmation, check_health=False)
    reply: Any = None
    try:
        reply = await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        reply = error
    if server.confirms:
        (on_disk, _) = await connection.read_response(disable_decoding=True)
        if on_disk < 1:
            raise RedisError("writes are not on its disk")
    if isinstance(reply, ResponseError):
        raise reply
    return reply
