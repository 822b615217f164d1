"""Brokers for tests: every backend, what it can do beyond the port, and letters to keep."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from support.mailboxes import message

from troupe.broker.addressing import mailbox
from troupe.broker.connect import connected
from troupe.broker.port import AGENTS, Broker, DeadLetter
from troupe.broker.sqlite_schema import SCHEMA
from troupe.chassis import sqlite_file
from troupe.chassis.ids import uuid7

QUEUE = mailbox(0)


@dataclass(frozen=True)
class Backend:
    """How to open a broker, and where it keeps more, or less, than others of what the port leaves open."""

    open: Callable[[Path, str], AbstractAsyncContextManager[Broker]]
    """Opens a broker of its own for each directory, or server; where it is durable, the same one each time."""
    server: str = ""
    """The fixture that gives the URL of the server that it needs, where it needs one."""
    durable: bool = True
    """What was confirmed is there when it is opened again."""
    ordered_requeue: bool = True
    """What a consumer leaves behind comes in its old place."""
    exact_depth: bool = True
    """`depth` counts at once, and knows the oldest message, whoever consumes."""
    early: float = 0.0
    """Share of a delay by which a deferred message may come before its time."""
    late: float = 10.0
    """Seconds after its time by which it has come on a busy machine."""
    shows_to_all: bool = True
    """A dead letter is shown to everybody who looks, not to one at a time."""
    quiet: float = 0.02
    """Seconds after which it has done what it does by itself: a delivery that would be wrong has come by then."""


def _sqlite(directory: Path, _server: str) -> AbstractAsyncContextManager[Broker]:
    file = directory / "broker.db"
    if not file.exists():
        file.write_bytes(_empty())
    return connected(f"sqlite:///{file}")


@cache
def _empty() -> bytes:
    """A broker without anything in it: making the tables takes longer than most tests on them."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "broker.db")
        sqlite_file.prepare(file, SCHEMA)
        return file.read_bytes()


BACKENDS: Mapping[str, Backend] = {
    "memory": Backend(lambda *_: connected("memory://"), durable=False),
    "sqlite": Backend(_sqlite),
    "rabbitmq": Backend(
        lambda _, url: connected(url),
        server="amqp_url",
        ordered_requeue=False,
        exact_depth=False,
        early=0.125,
        shows_to_all=False,
        quiet=0.1,
    ),
}


@dataclass(frozen=True)
class Opened:
    """One test's broker. Calling it opens it."""

    backend: Backend
    directory: Path
    server: str = ""

    def __call__(self) -> AbstractAsyncContextManager[Broker]:
        return self.backend.open(self.directory, self.server)

    async def quiet(self) -> None:
        """Returns when whatever the broker does by itself has been done."""
        for _ in range(20):
            await asyncio.sleep(self.backend.quiet / 20)


async def publish(broker: Broker, numbers: range, pool: str = "", **parts: str) -> None:
    """These messages of a stream, one after another."""
    for sequence in numbers:
        await broker.publish(message(sequence, **parts), pool)


async def holds(broker: Broker, messages: int, queue: str = QUEUE) -> None:
    """Returns once the queue holds this many. Raises TimeoutError."""
    async with asyncio.timeout(20):
        while (await broker.depth(queue)).messages != messages:  # noqa: ASYNC110 - a broker tells nobody
            await asyncio.sleep(0.001)


def letter(
    message_id: str = "m-1",
    *,
    pool: str = AGENTS,
    session: str = "default/default/clerk/s",
    reason: str = "UNDECODABLE",
    error: str = "the body is no envelope",
) -> DeadLetter:
    """One that differs from every other."""
    return DeadLetter(
        id=uuid7(),
        body=b"\x00\xff no envelope",
        pool=pool,
        message_id=message_id,
        session=session,
        reason=reason,
        error=error,
        attempts=4,
        first_failed=1.5,
        last_failed=2.5,
        worker_id="worker-0",
        revision_id="",
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )


async def letters(broker: Broker, pool: str = AGENTS) -> list[DeadLetter]:
    """All of the pool's; they stay."""
    async with broker.dead_letters(pool) as held:
        return [each.letter async for each in held]
