"""A program that is measured: a peer in its own environment, or ours. Each is run alone, in a vhost of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
from support.rabbitmq import Node

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "bench" / "peers"
UV = ROOT / ".venv" / "bin" / "uv"
TIMEOUT = 180.0
"""Seconds after which a contender counts as hung."""
TRIES = 3
"""Runs of a consumer at most: Celery's leaves some of its last messages unacked in one of four."""
SETTLING = 5.0
"""Seconds that the server may take to carry out what a contender that is gone has asked it for."""


class ContenderFailed(Exception):
    """A contender could not be run, or did not do what it was measured for. The benchmark ends: a table with a peer
    missing would look like a better one."""


@dataclass(frozen=True, slots=True)
class Measurement:
    messages: int
    """All that the contender confirmed or handled, those before and after the measured time included."""
    rate: float
    """Messages per second in the measured time."""


@dataclass(frozen=True, slots=True)
class Contender:
    """`consumed` is how many messages it is given to consume: enough for a second or more at its rate."""

    name: str
    command: Sequence[str]
    consumed: int
    queue: str = "bench"
    """Where its messages lie."""

    def publish(self, node: Node, seconds: float, mode: str = "publish") -> float:
        """Confirmed publishes per second, for `seconds` after a warm-up. Raises ContenderFailed, also when the queue
        does not hold what was confirmed."""
        return self._measure(node, mode, str(seconds), left=lambda measured: measured.messages)

    def consume(self, node: Node) -> float:
        """Messages handled and acked per second. Raises ContenderFailed, also when the queue is not empty then: of
        TRIES runs one must leave nothing behind."""
        for _ in range(TRIES - 1):
            with contextlib.suppress(ContenderFailed):
                return self._measure(node, "consume", str(self.consumed), left=lambda _: 0)
        return self._measure(node, "consume", str(self.consumed), left=lambda _: 0)

    def _measure(self, node: Node, mode: str, amount: str, left: Callable[[Measurement], int]) -> float:
        url = node.vhost()
        try:
            measured = measurement(self.name, [*self.command, mode, url, self.queue, amount])
            if (there := _settled_depth(url, self.queue, left(measured))) != left(measured):
                raise ContenderFailed(
                    f"{self.name} {mode}: {there} messages are in the queue, not {left(measured)}, so it was not "
                    f"measured at what it says"
                )
        finally:
            node.drop_vhost(url)
        return measured.rate


def peer(name: str, consumed: int) -> Contender:
    """The peer of this name, run in its own locked environment."""
    return Contender(name, peer_command(name), consumed)


def peer_command(name: str) -> list[str]:
    """The command of the peer of this name, in its own locked environment."""
    return [*_uv("run", name), "python", str(PEERS / name / "peer.py")]


def ours(module: str, *arguments: str) -> list[str]:
    """The command of a module of this package."""
    return [sys.executable, "-m", module, *arguments]


def prepare(name: str) -> None:
    """Install the peer's locked environment. Raises ContenderFailed."""
    _run(f"peer {name}", _uv("sync", name))


def measurement(name: str, command: Sequence[str]) -> Measurement:
    """What the command measured, from the last line that it printed. Raises ContenderFailed."""
    said = answer(name, command)
    try:
        return Measurement(said["messages"], said["counted"] / said["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ContenderFailed(f"{name} printed no measurement ({error}): {said}") from error


def answer(name: str, command: Sequence[str]) -> dict[str, Any]:
    """The JSON object in the last line that the command printed. Raises ContenderFailed."""
    lines = _run(name, command).splitlines()
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise ContenderFailed(f"{name} printed no measurement ({error}): {lines[-3:]}") from error
    if not isinstance(said, dict):
        raise ContenderFailed(f"{name} printed no measurement: {said!r}")
    return said


def _uv(verb: str, name: str) -> list[str]:
    return [str(UV), verb, "--quiet", "--locked", "--python", sys.executable, "--project", str(PEERS / name)]


def _run(name: str, command: Sequence[str]) -> str:
    kept = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", PEERS)))
    with subprocess.Popen(
        command,
        env=kept | {"PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, since uv has the peer as its child.
        start_new_session=True,
    ) as process:
        try:
            said, complained = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, complained = process.communicate()
            complained += f"\nended after {TIMEOUT:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise ContenderFailed(f"{name} could not be run (exit status {process.returncode}):\n{complained[-3000:]}")
    return said


def _settled_depth(url: str, queue: str, expected: int) -> int:
    """How many messages the queue holds, once that is what is expected, or SETTLING is over: the server may be some way
    behind the last acks of a client that is gone."""
    deadline = time.monotonic() + SETTLING
    while (there := _depth(url, queue)) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return there


def _depth(url: str, queue: str) -> int:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        return int(connection.channel().queue_declare(queue, passive=True).method.message_count)
    finally:
        connection.close()
