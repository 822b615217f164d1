"""A behaviour for workers in tests that does what each message says, and places in a turn to hold it at."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from troupe.broker.retry import RetryPolicy
from troupe.dataplane.actors.behaviour import TurnContext, TurnResult
from troupe.dataplane.state.control import Promise
from troupe.dataplane.state.session import RETENTION
from troupe.v1 import promise_pb2
from troupe.v1.envelope_pb2 import Content

Does = Callable[[TurnContext], Awaitable[str]]


@dataclass
class Scripted:
    """A Behaviour that does what the first word of a message says, and else answers with the message. The state is
    all texts so far, each followed by `;`."""

    does: dict[str, Does] = field(default_factory=dict)
    promises_expire: float = 0.0
    """Seconds since the epoch; 0: never."""
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(3, 0.01, 0.04))
    deadline: float = 30.0
    retention: float = RETENTION
    max_batch: int = 1
    takes_back: Callable[[TurnContext], Awaitable[None]] | None = None
    revision_id: str = "revision-1"
    generation: int = 1
    started: list[str] = field(default_factory=list)
    """`session: text` of each attempt."""
    attempts: list[int] = field(default_factory=list)
    effects: Counter[str] = field(default_factory=Counter)
    """What steps did to the world outside."""
    most_at_once: Counter[str] = field(default_factory=Counter)
    _running: Counter[str] = field(default_factory=Counter)

    def gate(self, word: str) -> "Gate":
        gate = self.does[word] = Gate()
        return gate

    def fails(self, word: str, error: Exception, times: int = 1_000_000) -> None:
        """The first `times` attempts of messages that begin with this word end in an error like this one."""
        left = times

        async def fail(turn: TurnContext) -> str:
            nonlocal left
            left -= 1
            if left >= 0:
                raise error
            return turn.message.content.text

        self.does[word] = fail

    async def run(self, turn: TurnContext) -> TurnResult:
        session, text = turn.key.session, turn.message.content.text
        self.started.append(f"{session}: {text}")
        self.attempts.append(turn.attempt)
        self._running[session] += 1
        self.most_at_once[session] = max(self.most_at_once[session], self._running[session])
        try:
            do = self.does.get(text.split(" ")[0])
            reply = text if do is None else await do(turn)
        finally:
            self._running[session] -= 1
        return TurnResult(Content(text=reply), state=turn.state + f"{text};".encode(), delta=text.encode())

    async def compensate(self, turn: TurnContext) -> None:
        if self.takes_back is not None:
            await self.takes_back(turn)

    async def ask_outside(self, turn: TurnContext) -> str:
        """Wait for the promise `answer`, and say what it came to."""
        promise_id = f"{turn.message.id}/answer"
        if promise_id not in turn.journal.promises:
            made = Promise(promise_id, "answer", turn.message.id, time.time(), expires=self.promises_expire)
            await turn.journal.keep({}, starts=True, promises=[made])
        promise = turn.journal.promises[promise_id]
        if promise.state == promise_pb2.PROMISE_STATE_OPEN:
            await turn.suspend([promise_id])
        return promise.value.decode() or promise_pb2.PromiseState.Name(promise.state)

    async def steps(self, turn: TurnContext) -> str:
        """Three journaled steps, each with an effect outside; an effect is not repeated once its result is kept."""
        for step in ("one", "two", "three"):
            if f"result/{step}" not in turn.journal.kept:
                await turn.journal.keep({f"start/{step}": b""}, starts=True)
                self.effects[f"{turn.message.id} {step}"] += 1
                await turn.journal.keep({f"result/{step}": b"1"}, starts=False)
        return "stepped"


class Gate:
    """A place in a turn where the test holds it."""

    def __init__(self) -> None:
        self.entered, self.open, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, turn: TurnContext) -> str:
        self.entered.set()
        try:
            await self.open.wait()
        finally:
            self.left.set()
        return "went through"
