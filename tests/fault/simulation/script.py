"""What the simulated actors do with a message: follow the script that the seed wrote for it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from fault.simulation.history import History
from fault.simulation.store import WatchedStore
from google.rpc import code_pb2

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.dataplane.actors.behaviour import Remind, Send, TurnContext, TurnResult
from troupe.dataplane.behaviours.calls import TAKING_BACK
from troupe.dataplane.behaviours.step_names import PROMISE, RESULT, START
from troupe.dataplane.state.control import Promise
from troupe.dataplane.state.session import RETENTION, Owner
from troupe.v1.envelope_pb2 import Content, Envelope
from troupe.v1.promise_pb2 import PROMISE_STATE_OPEN

DEADLINE = 90.0
MAX_STEPS = 2
MAX_OCCURRENCES = 3
"""Of one reminder: then it is forgotten."""


class UnknownOutcome(TroupeError):
    """A step began, nobody knows how it ended, and it must not be done twice."""

    code = code_pb2.ABORTED


@dataclass(slots=True)
class Script:
    """One message's. What is counted is used up by the attempts."""

    seconds: float
    steps: int
    fails: int
    kills: int
    hopeless: bool
    sends: tuple[float, ...]
    """For each message that it sends: to which of the sessions, as a share of them."""
    asks: tuple[float, ...]
    """For each promise that it waits for: seconds until that expires, 0 for never."""
    reminds: tuple[float, float] | None
    """The reminder that it sets: seconds until it is due, and from one to the next, 0 for only once."""

    @classmethod
    def of(cls, seed: str, long: float, waits: float) -> "Script":
        dice = random.Random(seed)
        seconds = dice.choice((0.0, 0.002, 0.02, 0.2, 1.0))
        odds = dice.random()
        if odds < long:
            seconds = dice.uniform(40.0, 80.0)
        elif odds < long + 0.02:
            seconds = DEADLINE + 5.0
        elif odds < long + 0.08:
            seconds = dice.uniform(2.0, 12.0)
        return cls(
            seconds,
            steps=dice.choice((0, 0, 1, 2)),
            fails=dice.choice((1, 1, 2, 9)) if dice.random() < 0.15 else 0,
            kills=dice.choice((1, 2, 99)) if dice.random() < 0.06 else 0,
            hopeless=dice.random() < 0.03,
            sends=tuple(dice.random() for _ in range(dice.choice((1, 1, 2, 3)))) if dice.random() < 0.35 else (),
            asks=tuple(dice.choice((0.0, 0.0, 3.0, 30.0)) for _ in range(dice.choice((1, 1, 2, 4))))
            if dice.random() < waits
            else (),
            reminds=(dice.choice((0.0, 2.0, 20.0)), dice.choice((0.0, 0.0, 0.5, 5.0))) if dice.random() < 0.1 else None,
        )


class Scripts:
    """All messages'."""

    def __init__(self, seed: int, long: float, waits: float) -> None:
        """`long` is the share of messages that take about a minute, `waits` that of messages that wait for promises."""
        self._seed, self._long, self._waits = seed, long, waits
        self._scripts: dict[tuple[SessionKey, str], Script] = {}
        self.others: Sequence[SessionKey] = ()
        """Whom actors may send to."""
        self.calm = False
        """From now on nothing fails, kills or takes long."""
        self.restarted: Mapping[tuple[SessionKey, str], tuple[SessionKey, str]] = {}
        """Whose scripts others go on with."""
        self.asked: Callable[[SessionKey, str], None] = lambda key, promise_id: None
        """Hears of each promise that somebody may settle."""

    def of(self, key: SessionKey, message_id: str) -> Script:
        name = (key, message_id)
        while name in self.restarted:
            name = self.restarted[name]
        if name not in self._scripts:
            self._scripts[name] = Script.of(f"{self._seed} {key} {name[1]}", self._long, self._waits)
        return self._scripts[name]


class Scripted:
    """The behaviour of every simulated actor, in one worker. Those of BATCHES take several messages in one turn."""

    revision_id = "revision"
    generation = 1
    retry = RetryPolicy()
    deadline = DEADLINE
    retention = RETENTION

    def __init__(
        self,
        scripts: Scripts,
        history: History,
        store: WatchedStore,
        owner: Callable[[SessionKey], Owner | None],
        kill: Callable[[], Awaitable[None]],
        now: Callable[[], float],
        instance: str,
        max_batch: int,
    ) -> None:
        """`owner` is the owner of the session's shard if this worker is it; `kill` ends this worker."""
        self._scripts, self._history, self._store = scripts, history, store
        self._owner, self._kill, self._now = owner, kill, now
        self._instance, self.max_batch = instance, max_batch

    async def run(self, turn: TurnContext) -> TurnResult:
        key, owner = turn.key, self._owner(turn.key)
        messages = [turn.message, *turn.batch]
        for marked in self._store.marked(key):
            if marked.message_id == turn.message.id and marked.running and marked.running.instance == self._instance:
                continue  # it need not wait, and goes on under its mark
            self._history.violation("beside a mark", f"{turn.message.id} began in {key}, where {marked} may still run")
        for message in messages:
            self._begins(key, owner, message, turn.attempt)
        if owner is not None:
            self._history.begins(key, owner, [(message.id, number_of(message)) for message in messages])
        try:
            return await (self._batch(turn) if turn.batch else self._play(turn, self._scripts.of(key, turn.message.id)))
        finally:
            if owner is not None:
                self._history.ended(key, owner)

    async def compensate(self, turn: TurnContext) -> None:
        """Take back the steps that came to their end, newest first."""
        ended = [step for step in range(MAX_STEPS) if f"{RESULT}{step}" in turn.journal.kept]
        for step in reversed(ended):
            taken_back = f"{START}{TAKING_BACK}{step}"
            if taken_back in turn.journal.kept:
                continue
            await turn.journal.keep({taken_back: b""}, starts=True, compensates=True)
            self._history.compensates(turn.key, turn.message.id, turn.message.content.text, step)
            await asyncio.sleep(0.05)

    def _begins(self, key: SessionKey, owner: Owner | None, message: Envelope, attempt: int) -> None:
        number = number_of(message)
        self._history.log(
            f"{owner.instance if owner else '(not owner)'} starts {message.id} {number.stream}:{number.sequence}"
            f" in {key}, attempt {attempt}"
        )
        name = (key, message.id)
        committed = message.redrives > 0 or self._history.posted.get(number) == name or name in self._history.restarted
        if message.HasField("source") and not message.reminder and not committed:
            self._history.violation("sent without a commit", f"{message.id} {number} began in {key}")

    async def _batch(self, turn: TurnContext) -> TurnResult:
        """Takes as long as its slowest, fails where any of them does."""
        scripts = [self._scripts.of(turn.key, message.id) for message in (turn.message, *turn.batch)]
        self._history.counts["batches"] += 1
        await asyncio.sleep(min(0.5, max(script.seconds for script in scripts)))
        for message, script in zip((turn.message, *turn.batch), scripts, strict=True):
            await self._trouble(turn.key, message.id, script)
        return TurnResult(
            Content(text=f"{turn.message.content.text} in attempt {turn.attempt}"),
            replies=[Content(text=f"{message.content.text} in attempt 0") for message in turn.batch],
            state=turn.state + "".join(f"{message.id}\n" for message in (turn.message, *turn.batch)).encode(),
        )

    async def _play(self, turn: TurnContext, script: Script) -> TurnResult:
        key, message_id, calm = turn.key, turn.message.id, self._scripts.calm
        for step in range(script.steps):
            await self._step(turn, step)
        for ask, lasts in enumerate(script.asks):
            await self._ask(turn, ask, lasts)
        if script.seconds:
            await asyncio.sleep(min(script.seconds, 0.5) if calm else script.seconds)
        await self._trouble(key, message_id, script)
        return TurnResult(
            Content(text=f"{turn.message.content.text} in attempt {turn.attempt}"),
            state=turn.state + f"{message_id}\n".encode(),
            delta=message_id.encode(),
            sends=self._sends(turn, script),
            remind=self._reminds(turn, script),
            forget_reminders=[turn.message.reminder] if self._is_enough(turn.message) else [],
        )

    async def _trouble(self, key: SessionKey, message_id: str, script: Script) -> None:
        calm = self._scripts.calm
        if script.kills and not calm:
            script.kills -= 1
            self._history.kills[key, message_id] += 1
            await self._kill()
        if script.fails and not calm:
            script.fails -= 1
            if script.fails % 2:
                raise RuntimeError("a bug of the actor's")
            raise Unavailable("TOOL_AWAY", "a tool is away")
        if script.hopeless:
            raise FailedPrecondition("HOPELESS", "this never works")

    def _sends(self, turn: TurnContext, script: Script) -> list[Send]:
        """Few of those that were sent send themselves, so that it comes to an end."""
        if turn.message.HasField("source") and len(script.sends) != 1:
            return []
        others = self._scripts.others
        return [
            Send(others[int(share * len(others))], Content(text=f"from {turn.message.id}")) for share in script.sends
        ]

    def _reminds(self, turn: TurnContext, script: Script) -> list[Remind]:
        """What is no reminder itself sets one, under one of two names."""
        if script.reminds is None or turn.message.reminder or turn.message.HasField("source"):
            return []
        after, every = script.reminds
        name = f"r{len(turn.message.id) % 2}"
        return [Remind(name, self._now() + after, every, Content(text="remember"))]

    def _is_enough(self, message: Envelope) -> bool:
        return bool(message.reminder) and (self._scripts.calm or message.number.sequence >= MAX_OCCURRENCES)

    async def _ask(self, turn: TurnContext, ask: int, lasts: float) -> None:
        """Wait for a promise."""
        name = f"p{ask}"
        made = (promise.id for promise in turn.journal.promises.values() if promise.name == name)
        promise_id = next(made, f"{turn.message.id}/{name}")
        if promise_id not in turn.journal.promises:
            now, started = self._now(), sum(step.startswith(START) for step in turn.journal.kept)
            promise = Promise(promise_id, name, turn.message.id, now, expires=now + lasts if lasts else 0.0)
            await turn.journal.keep({f"{PROMISE}{name}": b"%d" % started}, starts=True, promises=[promise])
            self._history.asks(turn.key, turn.message.id, name)
        found = turn.journal.promises[promise_id]
        if found.state == PROMISE_STATE_OPEN:
            self._scripts.asked(turn.key, promise_id)
            self._history.counts["suspended"] += 1
            await turn.suspend([promise_id])
        self._history.sees(turn.key, promise_id, found)

    async def _step(self, turn: TurnContext, step: int) -> None:
        began, ended = f"{START}{step}", f"{RESULT}{step}"
        if ended in turn.journal.kept:
            return
        if began in turn.journal.kept:
            raise UnknownOutcome("UNKNOWN_OUTCOME", f"step {step} began, and nobody knows how it ended")
        await turn.journal.keep({began: started(step)}, starts=True)
        self._history.step(turn.key, turn.message.id, turn.message.content.text, step)
        await asyncio.sleep(0.05)
        await turn.journal.keep({ended: b""}, starts=False)


def started(step: int) -> bytes:
    """What an actor journals as it starts a call."""
    return msgspec.msgpack.encode([step, "tool", "", "{}"])


def number_of(message: Envelope) -> Number:
    return Number(message.number.stream, message.number.sequence)
