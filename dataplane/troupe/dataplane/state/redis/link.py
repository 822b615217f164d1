"""One pipelined connection to Redis that is made anew when it breaks.

Calls of one tick of the event loop are written together, and answered in their order. The client library connects,
authenticates, encrypts and parses; its own pipelines cost twice the CPU for each call.
"""

import asyncio
import contextlib
import math
import random
import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio.connection import Connection, ConnectionPool
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from troupe.broker.retry import RetryPolicy
from troupe.chassis.background import background
from troupe.chassis.errors import DataLoss, Internal, TroupeError, Unavailable
from troupe.chassis.redis_address import Address
from troupe.chassis.redis_server import Server, Use, connected, leave, packed, pooled, said
from troupe.dataplane.state.redis.scripts import SCRIPTS, Script

log = structlog.get_logger()

USE = Use(
    store="state store",
    kept="sessions",
    confirmed="turns that were answered",
    otherwise="or run with --allow-volatile-state (TROUPE_ALLOW_VOLATILE_STATE=1) if sessions may lose what they were "
    "told",
)
PATIENCE = 5.0
"""Seconds that a call waits to be written, then for its answer, and that connecting may take."""
IN_FLIGHT = 1024
"""Calls that are written and not answered."""
WAITING = 65_536
"""Calls that wait to be written; more are refused."""
RECONNECT = RetryPolicy(initial_delay=0.05, max_delay=2.0)
TRANSIENT = re.compile(r"\b(OOM|BUSY|MISCONF|READONLY|MASTERDOWN|NOREPLICAS)\b")
"""What replies say that another try may not get. Redis says each of them before a script's first write, or not."""
CLOSED = "the store is closed"
GONE = "; its log says why it stopped: its disk may be full"
"""What is said of a server that answered, and no longer does. With `appendfsync always` Redis stops when it cannot
write."""


@dataclass(slots=True, eq=False)
class _Call:
    script: Script | None
    """None asks whether all before it is on disk."""
    arguments: tuple[bytes | str | int, ...]
    since: float
    answer: asyncio.Future[Any] = field(repr=False)
    forgotten: bool = False
    """The server has lost the script."""

    def packed(self) -> bytes:
        if self.script is None:
            return packed(("WAITAOF", 1, 0, 0))
        if self.forgotten:
            return packed(("EVAL", self.script.body, 1, *self.arguments))
        return packed(("EVALSHA", self.script.digest, 1, *self.arguments))


class Link:
    """Calls scripts. A call that fails is Unavailable, and nobody knows whether it was carried out; DataLoss, where a
    key holds something else; or Internal, a defect."""

    def __init__(self, pool: ConnectionPool, address: Address, *, allow_volatile: bool) -> None:
        self._pool, self._address, self._allow_volatile = pool, address, allow_volatile
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Call] = deque()
        self._flying: deque[_Call] = deque()
        self._held: deque[tuple[_Call, Any]] = deque()
        """Replies to calls that the server has not said to be on its disk."""
        self._stirred = asyncio.Event()
        self._closed = False
        self._trouble = ""
        """Why there is no connection."""

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(address: Address, *, allow_volatile: bool) -> AsyncIterator["Link"]:
        """The link, connected. Raises InvalidArgument for a URL that the client refuses, FailedPrecondition for a
        server that sessions cannot be entrusted to, Unavailable where none answers."""
        link = Link(pooled(address, USE), address, allow_volatile=allow_volatile)
        if allow_volatile:
            log.warning("redis.unchecked", redis=address.shown, hint="sessions may lose what they were told")
        first = await link._connected()
        try:
            async with background() as tasks:
                tasks.create_task(link._keep(*first))
                tasks.create_task(link._give_up_overdue())
                yield link
        finally:
            link._closed = True
            link._give_up(link._waiting, CLOSED)

    async def call(self, script: Script, key: str, *arguments: bytes | str | int) -> Any:
        """The script's reply. A caller that is cancelled does not know whether the script is carried out."""
        if self._closed or len(self._waiting) >= WAITING:
            raise self._unavailable(CLOSED if self._closed else f"{len(self._waiting)} calls wait for it")
        call = _Call(script, (key, *arguments), self._loop.time(), self._loop.create_future())
        self._waiting.append(call)
        self._stirred.set()
        return await call.answer

    # --- one connection after another

    async def _keep(self, connection: Connection, server: Server) -> None:
        while True:
            try:
                await self._serve(connection, server)
            except* (RedisError, OSError) as group:
                self._trouble = said(group.exceptions[0])
            finally:
                self._give_up(deque(call for call, _ in self._held), self._trouble or CLOSED)
                self._held.clear()
                self._give_up(self._flying, self._trouble or CLOSED)
                await leave(connection)
            log.warning("redis.disconnected", redis=self._address.shown, reason=self._trouble)
            connection, server = await self._reconnected()
            self._trouble = ""
            log.info("redis.connected", redis=self._address.shown)

    async def _reconnected(self) -> tuple[Connection, Server]:
        failures = 0
        while True:
            failures += 1
            await asyncio.sleep(RECONNECT.delay(failures, random.random()))
            try:
                return await self._connected()
            except TroupeError as error:
                self._trouble = str(error) + (GONE if error.reason == "REDIS_UNREACHABLE" else "")

    async def _connected(self) -> tuple[Connection, Server]:
        bodies = (script.body for script in SCRIPTS)
        return await connected(
            self._pool, self._address, USE, bodies, allow_volatile=self._allow_volatile, patience=PATIENCE
        )

    async def _serve(self, connection: Connection, server: Server) -> None:
        async with background() as tasks:
            tasks.create_task(self._write(connection, server))
            tasks.create_task(self._read(connection, server))
            tasks.create_task(self._see_answers())
            await asyncio.Event().wait()

    async def _write(self, connection: Connection, server: Server) -> None:
        self._stirred.set()
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            batch: list[_Call] = []
            while self._waiting and len(self._flying) + len(batch) < IN_FLIGHT:
                call = self._waiting.popleft()
                if not call.answer.done():
                    batch.append(call)
            if not batch:
                continue
            if server.confirms:
                batch.append(_Call(None, (), self._loop.time(), self._loop.create_future()))
            for call in batch:
                call.since = self._loop.time()
            self._flying.extend(batch)
            await connection.send_packed_command(b"".join([call.packed() for call in batch]), check_health=False)

    async def _read(self, connection: Connection, server: Server) -> None:
        while True:
            try:
                reply = await connection.read_response(
                    disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                )
            except ResponseError as error:
                reply = error
            call = self._flying.popleft()
            if isinstance(reply, NoScriptError):
                call.forgotten = True
                self._waiting.appendleft(call)
            elif call.script is None:
                self._release(reply)
            elif server.confirms and not isinstance(reply, ResponseError):
                self._held.append((call, reply))
            else:
                self._answer(call, reply)
            if self._waiting:
                self._stirred.set()
            if isinstance(reply, ReadOnlyError):
                raise reply

    def _release(self, confirmation: Any) -> None:
        """What `confirmation`, a reply to WAITAOF, says of the replies that are held."""
        if isinstance(confirmation, ResponseError) or confirmation[0] < 1:
            self._give_up(deque(call for call, _ in self._held), f"writes are not on its disk: {confirmation}")
            self._held.clear()
        while self._held:
            self._answer(*self._held.popleft())

    async def _see_answers(self) -> None:
        """Raises RedisTimeoutError when the server has owed an answer for too long."""
        while True:
            await asyncio.sleep(PATIENCE / 10)
            if self._flying and self._flying[0].since < self._loop.time() - PATIENCE:
                raise RedisTimeoutError(f"no answer for {PATIENCE:.0f} s")

    # --- what calls come to

    def _answer(self, call: _Call, reply: Any) -> None:
        if call.answer.done():
            return
        if isinstance(reply, ResponseError):
            call.answer.set_exception(self._error(reply))
        else:
            call.answer.set_result(reply)

    async def _give_up_overdue(self) -> None:
        while True:
            await asyncio.sleep(PATIENCE / 10)
            overdue: deque[_Call] = deque()
            while self._waiting and self._waiting[0].since < self._loop.time() - PATIENCE:
                overdue.append(self._waiting.popleft())
            self._give_up(overdue, self._trouble or f"no answer for {PATIENCE:.0f} s")

    def _give_up(self, calls: deque[_Call], reason: str) -> None:
        while calls:
            call = calls.popleft()
            if not call.answer.done():
                call.answer.set_exception(self._unavailable(reason))

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(
            "STATE_UNAVAILABLE",
            f"the state store, Redis at {self._address.shown}, cannot be used ({reason}); what was asked may have been "
            "carried out or not: ask again",
        )

    def _error(self, reply: ResponseError) -> TroupeError:
        text = said(reply)
        if isinstance(reply, OutOfMemoryError | ReadOnlyError | MasterDownError) or TRANSIENT.search(text):
            return self._unavailable(text)
        if "WRONGTYPE" in text:
            return DataLoss(
                "STATE_FOREIGN_KEY",
                f"a key of the state store in Redis at {self._address.shown} holds something else ({text}): another "
                f"program writes keys that begin with {self._address.prefix}; give one of the two another prefix",
            )
        return Internal("STATE_SCRIPT", f"a script of the state store failed in Redis at {self._address.shown}: {text}")
