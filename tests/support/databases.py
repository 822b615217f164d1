"""Databases of one table, in this process and in others."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator

from troupe.chassis.sqlite import Database, Schema

SCHEMA = Schema("test", 1, ("CREATE TABLE item (name TEXT NOT NULL UNIQUE, value INTEGER NOT NULL)",))
Script = Callable[[sqlite3.Connection], None]

_PREAMBLE = """
import asyncio, json, resource, sys
from pathlib import Path
import structlog
from troupe.chassis.errors import Unavailable
from troupe.chassis.sqlite import Database, Schema

SCHEMA = Schema("test", 1, ("CREATE TABLE item (name TEXT NOT NULL UNIQUE, value INTEGER NOT NULL)",))
path = Path(sys.argv[1])

def insert(name):
    return lambda connection: connection.execute("INSERT INTO item (name, value) VALUES (?, 0)", (name,)).rowcount

async def count(database):
    return await database.read(lambda connection: connection.execute("SELECT count(*) FROM item").fetchone()[0])
"""


def insert(name: str, value: int = 0) -> Script:
    def script(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO item (name, value) VALUES (?, ?)", (name, value))

    return script


def named(name: str) -> Callable[[sqlite3.Connection], str]:
    """As `insert`; its result is the name."""

    def script(connection: sqlite3.Connection) -> str:
        insert(name)(connection)
        return name

    return script


async def names(database: Database) -> list[str]:
    rows = await database.read(lambda connection: connection.execute("SELECT name FROM item ORDER BY name").fetchall())
    return [name for (name,) in rows]


@contextlib.asynccontextmanager
async def one_group(database: Database) -> AsyncIterator[None]:
    """What is written within waits for the writer until the end, so that it goes into one transaction."""
    begun, enough = threading.Event(), threading.Event()

    def keep_busy(_: sqlite3.Connection) -> None:
        begun.set()
        enough.wait(20)

    busy = database.write(keep_busy)
    await asyncio.to_thread(begun.wait, 20)
    try:
        yield
    finally:
        enough.set()
        await busy


@contextlib.contextmanager
def elsewhere(program: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs the program after `_PREAMBLE`, on the file that is its first argument; killed on exit."""
    command = [sys.executable, "-c", _PREAMBLE + program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
