"""An Actor for worker processes in tests: it keeps what it has applied, tells a file what it starts, and fails, kills
its worker or writes to others as a message says."""

import asyncio
import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from troupe.chassis.errors import FailedPrecondition, Unavailable
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.v1.envelope_pb2 import Content

STARTS = "TROUPE_TEST_STARTS"
"""Names the file that gets one line for each attempt: session, operation, attempt."""
READ = "read"
"""The text that asks a session for what it has applied."""


@dataclass(frozen=True)
class Operation:
    """One numbered message of one sender. Written as JSON."""

    sender: str
    number: int
    seconds: float = 0.0
    fails: int = 0
    """Attempts that fail, and may be tried again."""
    hopeless: bool = False
    blocks: float = 0.0
    """Seconds for which the first attempt of all blocks its worker's event loop."""
    kills: bool = False
    """Each attempt kills its worker."""
    forwards: list[str] = field(default_factory=list)
    """Sessions that get a message from this one."""

    def text(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Applied:
    """A session's state."""

    operations: list[tuple[str, int]] = field(default_factory=list)
    """Sender and number of each, in the order in which they took effect."""
    sent: dict[str, int] = field(default_factory=dict)
    """How many messages each other session was sent."""

    @classmethod
    def read(cls, text: str | bytes) -> "Applied":
        found = json.loads(text) if text else {"operations": [], "sent": {}}
        return cls([(sender, number) for sender, number in found["operations"]], found["sent"])

    def text(self) -> str:
        return json.dumps(asdict(self))


class Recorder:
    async def receive(self, context: ActorContext, message: Content) -> None:
        applied = Applied.read(context.state)
        if message.text == READ:
            context.reply(applied.text())
            return
        operation = Operation(**json.loads(message.text))
        _tell(f"{context.session} {operation.sender} {operation.number} {context.attempt}\n")
        await asyncio.sleep(operation.seconds)
        if operation.blocks and _starts(operation) == 1:
            time.sleep(operation.blocks)  # noqa: ASYNC251 - what nobody should do
        if operation.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if context.attempt < operation.fails:
            raise Unavailable("AWAY", "what this needs is away for now")
        if operation.hopeless:
            raise FailedPrecondition("HOPELESS", "this never works")
        applied.operations.append((operation.sender, operation.number))
        for target in operation.forwards:
            number = applied.sent[target] = applied.sent.get(target, 0) + 1
            context.send("recorder", target, Operation(f"session {context.session}", number).text())
        context.state = applied.text().encode()
        context.reply("applied")


def _starts(operation: Operation) -> int:
    lines = Path(os.environ[STARTS]).read_text().splitlines()
    return sum(line.split()[1:3] == [operation.sender, str(operation.number)] for line in lines)


def _tell(line: str) -> None:
    descriptor = os.open(os.environ[STARTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
