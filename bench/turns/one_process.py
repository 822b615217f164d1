"""Turns per second of one process, beside a bare loop of the same operations on the same servers."""

import tempfile
from functools import partial
from pathlib import Path

from support.rabbitmq import Node
from support.redis_server import running as redis

from bench.contender import measurement, ours
from bench.rounds import in_rounds
from bench.rows import Row, compared

MESSAGES = 10_000


def measure(node: Node, rounds: int) -> list[Row]:
    """Raises ContenderFailed."""

    def rate(module: str) -> float:
        vhost = node.vhost()
        try:
            # Beside the results: a temporary directory may be in memory, where fsync costs nothing.
            with (
                tempfile.TemporaryDirectory(dir=Path(__file__).parents[1]) as directory,
                redis(Path(directory)) as server,
            ):
                return measurement(module, ours(f"bench.turns.{module}", vhost, server.url(), str(MESSAGES))).rate
        finally:
            node.drop_vhost(vhost)

    rates = in_rounds(rounds, {module: partial(rate, module) for module in ("ours", "bare")})
    return [
        compared(
            "one process: consume, commit, send, ack",
            "/s",
            rates["ours"],
            rates["bare"],
            "bare loop, pipelined",
            goal=0.5,
        )
    ]
