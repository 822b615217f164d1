"""`B=actors`: round trips to actors in one process beside AutoGen core, and how fast a cold actor is there."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from support.redis_server import running as redis

from bench.contender import answer, measurement, ours, peer_command, prepare
from bench.rounds import in_rounds
from bench.rows import Row, alone, compared

CALLERS = 64
OF_AUTOGEN = 5.0
ACTORS, RATE = 5_000, 500
MEDIAN, P99 = 2.0, 7.0
"""Milliseconds."""

INCLUDES = f"""\
Included: {CALLERS} callers, each of which waits for the answer of an actor of its own, in one process. Ours: the whole
turn path but gRPC, from the gateway through a mailbox, order, state, record, commit and events, over memory://. AutoGen
core: its single-threaded runtime on uvloop, which keeps nothing. The floor: an asyncio.Queue, protobuf and a future.
Activation: {ACTORS:,} sessions that are not in memory get a message each, {RATE} a second, and are loaded from Redis,
which writes every commit to disk; from the message's delivery until its turn starts.
Not included: processes, networks, durability of round trips."""


def measure(rounds: int, seconds: float) -> Iterator[list[Row]]:
    """All rows, as each part is done. Raises ContenderFailed."""
    prepare("autogen")
    arguments = (str(seconds), str(CALLERS))
    contenders = {
        "ours": ours("bench.actors.ours", *arguments),
        "autogen": [*peer_command("autogen"), *arguments],
        "floor": ours("bench.actors.floor", *arguments),
    }

    def rate(name: str) -> float:
        return measurement(name, contenders[name]).rate

    rates = in_rounds(rounds, {name: partial(rate, name) for name in contenders})
    metric = f"round trips, {CALLERS} callers"
    yield [
        compared(metric, "/s", rates["ours"], rates["autogen"], "AutoGen core", goal=OF_AUTOGEN),
        compared(metric, "/s", rates["ours"], rates["floor"], "asyncio.Queue and protobuf"),
    ]
    activations = [_activated() for _ in range(rounds)]
    for name, goal in (("median", MEDIAN), ("p99", P99)):
        took = [found[name] for found in activations]
        yield [alone(f"activation at {RATE}/s, {name}", "ms", took, goal=goal, better="lower")]


def _activated() -> dict[str, float]:
    # Beside the results: a temporary directory may be in memory, where fsync costs nothing.
    with (
        tempfile.TemporaryDirectory(dir=Path(__file__).parents[1]) as directory,
        redis(Path(directory)) as server,
    ):
        return answer("activation", ours("bench.actors.activation", server.url(), str(ACTORS), str(RATE)))
