"""`python -m bench.soak`: a million messages through one mailbox, with flat memory; 100,000 to one session.

It writes `bench/results/soak.json`. The exit status is 1 when a goal is not met.
"""

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from support.rabbitmq import Node

from bench.broker import session
from bench.broker.messages import Sender
from bench.rows import Row, alone, failed, table, write
from troupe.broker.addressing import mailbox
from troupe.broker.connect import connected
from troupe.broker.port import Delivery
from troupe.v1.envelope_pb2 import Envelope

RESULTS = Path(__file__).parent / "results"
GROWTH = 20.0
"""MiB that the client may grow after the first SETTLED messages: allocators keep some; a leak of a hundred bytes each
would be 86."""
SETTLED = 100_000
AHEAD = 10_000
"""Messages that the sender stays before the receiver at most."""
BATCH = 500
SAMPLE = 10_000


def main(arguments: Sequence[str], results: Path = RESULTS) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--messages", type=int, default=1_000_000, help="through one mailbox (default: 1,000,000)")
    parser.add_argument("--session", type=int, default=100_000, help="to one session (default: 100,000)")
    asked = parser.parse_args(arguments)
    if asked.messages and asked.messages < 2 * SAMPLE:
        parser.error(f"--messages: at least {2 * SAMPLE:,}, or 0 for none")
    console = Console(width=None if sys.stdout.isatty() else 160)
    node = Node()
    try:
        node.start()
        rows = asyncio.run(flow(node.vhost(), asked.messages)) if asked.messages else []
        rows += session.measure(node, 1, asked.session) if asked.session else []
    finally:
        node.close()
    write(results / "soak.json", rows)
    console.print(table("soak", rows))
    return 1 if failed(rows) else 0


async def flow(url: str, messages: int) -> list[Row]:
    """Send and receive so many messages in this process; each must come once, in order. Its memory is sampled."""
    room = asyncio.Semaphore(AHEAD // BATCH)
    last = asyncio.Event()
    began = time.perf_counter()
    resident: list[float] = []
    received = 0

    def handle(delivery: Delivery) -> None:
        nonlocal received
        received += 1
        sequence = Envelope.FromString(delivery.body).number.sequence
        if sequence != received:
            raise AssertionError(f"message {sequence} came in the place of {received}")
        delivery.ack()
        if received % BATCH == 0:
            room.release()
        if received % SAMPLE == 0:
            resident.append(memory())
            rate = received / (time.perf_counter() - began)
            print(f"{received:,} messages, {rate:,.0f}/s, {resident[-1]:.1f} MiB", file=sys.stderr, flush=True)
        if received == messages:
            last.set()

    async with connected(url) as broker:
        await broker.declare(1)
        await broker.consume(mailbox(0), handle, prefetch=1000)
        sender = Sender()
        for _ in range(messages // BATCH):
            await room.acquire()
            await sender.send(broker, BATCH)
        await last.wait()
    took = time.perf_counter() - began
    settled = min(SETTLED, messages // 2) // SAMPLE
    growth = max(resident[settled:]) - resident[settled - 1]
    return [
        alone(f"{messages:,} messages through one mailbox, in order", "/s", [messages / took]),
        alone(f"memory: growth after {settled * SAMPLE:,} of them", "MiB", [growth], goal=GROWTH, better="lower"),
    ]


def memory() -> float:
    """MiB of this process that are resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
