"""What the simulated actors do with a message: follow the script that the seed wrote for it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fault.simulation.history import History
from fault.simulation.store import WatchedStore
from google.rpc import code_pb2

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.dataplane.actors.behaviour import Send, TurnContext, TurnResult
from troupe.dataplane.state.port import Owner
from troupe.v1.envelope_pb2 import Content

DEADLINE = 90.0


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

    @classmethod
    def of(cls, seed: str, long: float) -> "Script":
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
        )


class Scripts:
    """All messages'."""

    def __init__(self, seed: int, long: float) -> None:
        """`long` is the share of messages that take about a minute."""
        self._seed, self._long = seed, long
        self._scripts: dict[tuple[SessionKey, str], Script] = {}
        self.others: Sequence[SessionKey] = ()
        """Whom actors may send to."""
        self.calm = False
        """From now on nothing fails, kills or takes long."""

    def of(self, key: SessionKey, message_id: str) -> Script:
        name = (key, message_id)
        if name not in self._scripts:
            self._scripts[name] = Script.of(f"{self._seed} {key} {message_id}", self._long)
        return self._scripts[name]


class Scripted:
    """The behaviour of every simulated actor, in one worker."""

    revision_id = "revision"
    generation = 1
    retry = RetryPolicy()
    deadline = DEADLINE

    def __init__(
        self,
        scripts: Scripts,
        history: History,
        store: WatchedStore,
        owner: Callable[[SessionKey], Owner | None],
        kill: Callable[[], Awaitable[None]],
    ) -> None:
        """`owner` is the owner of the session's shard if this worker is it; `kill` ends this worker."""
        self._scripts, self._history, self._store = scripts, history, store
        self._owner, self._kill = owner, kill

    async def run(self, turn: TurnContext) -> TurnResult:
        key, message_id = turn.key, turn.message.id
        number = Number(turn.message.number.stream, turn.message.number.sequence)
        owner = self._owner(key)
        self._history.log(
            f"{owner.instance if owner else '(not owner)'} starts {message_id} {number.stream}:{number.sequence}"
            f" in {key}, attempt {turn.attempt}"
        )
        for marked in self._store.marked(key):
            self._history.violation("beside a mark", f"{message_id} began in {key}, where {marked} may still run")
        committed = turn.message.redrives > 0 or self._history.posted.get(number) == (key, message_id)
        if turn.message.HasField("source") and not committed:
            self._history.violation("sent without a commit", f"{message_id} {number} began in {key}")
        if owner is not None:
            self._history.begins(key, owner, message_id, number)
        try:
            return await self._play(turn, self._scripts.of(key, message_id))
        finally:
            if owner is not None:
                self._history.ended(key, owner)

    async def _play(self, turn: TurnContext, script: Script) -> TurnResult:
        key, message_id, calm = turn.key, turn.message.id, self._scripts.calm
        for step in range(script.steps):
            await self._step(turn, step)
        if script.seconds:
            await asyncio.sleep(min(script.seconds, 0.5) if calm else script.seconds)
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
        return TurnResult(
            Content(text=f"{turn.message.content.text} in attempt {turn.attempt}"),
            state=turn.state + f"{message_id}\n".encode(),
            delta=message_id.encode(),
            sends=self._sends(turn, script),
        )

    def _sends(self, turn: TurnContext, script: Script) -> list[Send]:
        """Few of those that were sent send themselves, so that it comes to an end."""
        if turn.message.HasField("source") and len(script.sends) != 1:
            return []
        others = self._scripts.others
        return [
            Send(others[int(share * len(others))], Content(text=f"from {turn.message.id}")) for share in script.sends
        ]

    async def _step(self, turn: TurnContext, step: int) -> None:
        began, ended = f"{step} began", f"{step} ended"
        if ended in turn.journal.kept:
            return
        if began in turn.journal.kept:
            raise UnknownOutcome("UNKNOWN_OUTCOME", f"step {step} began, and nobody knows how it ended")
        await turn.journal.keep({began: b""}, starts=True)
        self._history.step(turn.key, turn.message.id, turn.message.content.text, step)
        await asyncio.sleep(0.05)
        await turn.journal.keep({ended: b""}, starts=False)
