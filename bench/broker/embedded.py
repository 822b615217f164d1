"""The embedded broker: confirmed publishes from PUBLISHERS at once, beside bare sqlite3 committing as many rows.

`python -m bench.broker.embedded troupe|sqlite3 FILE SECONDS`. Both write 256 bytes of payload a message to a file in
WAL mode with synchronous=FULL, so that every commit is an fsync.
"""

import asyncio
import sqlite3
import sys
import time
from functools import partial
from pathlib import Path

import meter

from bench.broker.messages import Sender
from bench.contender import measurement, ours
from bench.rounds import in_rounds
from bench.rows import Row, alone, compared
from troupe.broker.connect import connected

PUBLISHERS = 64


def measure(directory: Path, rounds: int, seconds: float) -> list[Row]:
    """In files of their own in `directory`. Raises ContenderFailed."""

    def rate(mode: str) -> float:
        file = directory / f"{mode}-{time.monotonic_ns()}.db"
        return measurement(f"embedded {mode}", ours("bench.broker.embedded", mode, str(file), str(seconds))).rate

    rates = in_rounds(rounds, {mode: partial(rate, mode) for mode in ("troupe", "sqlite3")})
    metric = f"SQLite: publish, confirmed, {PUBLISHERS} publishers"
    return [
        alone(metric, "/s", rates["troupe"], goal=10_000),
        compared(metric, "/s", rates["troupe"], rates["sqlite3"], f"bare sqlite3, {PUBLISHERS} rows a commit"),
    ]


async def publish(file: Path, measured: meter.Publishing) -> None:
    async with connected(f"sqlite:///{file}") as broker:
        await broker.declare(1)
        sender = Sender()

        async def call() -> None:
            while measured.sending():
                await broker.publish(sender.next())
                measured.confirmed()

        async with asyncio.TaskGroup() as publishers:
            for _ in range(PUBLISHERS):
                publishers.create_task(call())


def insert(file: Path, measured: meter.Publishing) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY AUTOINCREMENT, published REAL, body BLOB)")
    sender = Sender()
    while measured.sending():
        connection.execute("BEGIN")
        for _ in range(PUBLISHERS):
            row = time.time(), sender.next().SerializeToString()
            connection.execute("INSERT INTO message (published, body) VALUES (?, ?)", row)
        connection.execute("COMMIT")
        for _ in range(PUBLISHERS):
            measured.confirmed()
    connection.close()


def main(mode: str, file: Path, seconds: float) -> None:
    measured = meter.Publishing(seconds)
    if mode == "troupe":
        asyncio.run(publish(file, measured))
    else:
        insert(file, measured)
    measured.report()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
