"""An LLM agent as the actor runtime runs it: the agent's turn, with the runtime's journal, events and ledger."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from troupe.broker.retry import RetryPolicy
from troupe.chassis import tracing
from troupe.chassis.clock import Clock
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.actors.behaviour import TurnContext, TurnResult
from troupe.dataplane.agent import history
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import Entry, ModelAnswer, Usage, UserMessage
from troupe.dataplane.agent.turn import run_turn
from troupe.dataplane.behaviours.calls import JournaledCalls
from troupe.dataplane.behaviours.compensation import compensate
from troupe.dataplane.behaviours.promises import TurnPromises
from troupe.dataplane.behaviours.step_names import ANSWER, START
from troupe.dataplane.llm.client import ModelClient
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.llm.timings import ModelTimings
from troupe.dataplane.tools.call import ToolCall
from troupe.dataplane.tools.executor import ToolExecutor
from troupe.dataplane.tools.tool import Tool
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Content

_encode = msgspec.msgpack.Encoder().encode
_answer = msgspec.msgpack.Decoder(ModelAnswer).decode
_STARTED: Final = b""
SNAPSHOT_EVERY: Final = 50
"""Turns from one snapshot of the history to the next: no more deltas are read when a session is loaded."""


@dataclass(frozen=True)
class AgentBehaviour:
    """One Agent of one revision. See `troupe.dataplane.actors.behaviour.Behaviour`."""

    revision_id: str
    generation: int
    config: AgentConfig
    model: ModelClient
    compensations: Mapping[str, Tool]
    """By name of the tool that they are for."""
    retry: RetryPolicy
    executor: ToolExecutor
    clock: Clock
    max_batch: int = 1

    @property
    def deadline(self) -> float:
        return self.config.turn_deadline

    @property
    def retention(self) -> float:
        return self.config.retention

    async def run(self, turn: TurnContext) -> TurnResult:
        if turn.message.content.WhichOneof("body") != "text":
            raise InvalidArgument("NOT_TEXT", f"agent {self.config.name} takes text, nothing else")
        before = history.restored(turn.snapshot, turn.history)
        promises = TurnPromises(turn, self.clock)
        result = await run_turn(
            UserMessage(turn.message.content.text, turn.message.id),
            before,
            self.config,
            _Ports(turn, promises, self.model, self.clock, asks=self.config.asks),
            self.executor,
            session=turn.key.session,
        )
        state = _state.decode(turn.state) if turn.state else _State()
        total = state.usage + result.usage
        return TurnResult(
            reply=Content(text=result.text),
            state=_encode(_State(total)),
            delta=history.encode(result.entries),
            usage=usage_message(result.usage),
            session_usage=usage_message(total),
            snapshot=self._snapshot(turn, (*before, *result.entries)),
        )

    async def compensate(self, turn: TurnContext) -> None:
        await compensate(turn, _newest_first(turn.journal.kept), self.compensations, self.executor, self.clock)

    def _snapshot(self, turn: TurnContext, entries: Sequence[Entry]) -> bytes | None:
        """What stands for the history from now on, where it has got long: what a later prompt can still show."""
        if len(turn.history) + 1 < SNAPSHOT_EVERY:
            return None
        window = self.config.window(self.config.system(turn.key.session)).extended(entries)
        return history.snapshot(entries[window.start :])


class _State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent's session keeps beside its history."""

    usage: Usage = Usage()


_state = msgspec.msgpack.Decoder(_State)


def usage_message(usage: Usage) -> turn_pb2.Usage:
    return turn_pb2.Usage(**msgspec.structs.asdict(usage))


class _Ports(JournaledCalls):
    """See `troupe.dataplane.agent.ports.TurnPorts`. Beside those of calls, journal steps are ANSWER."""

    def __init__(
        self, turn: TurnContext, promises: TurnPromises, model: ModelClient, clock: Clock, *, asks: bool
    ) -> None:
        super().__init__(turn, promises, clock, asks=asks)
        self._model = model

    async def complete(self, request: ModelRequest, step: int) -> ModelAnswer:
        timings, model = ModelTimings(self._clock.monotonic), self._model.endpoint.model
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
        with tracing.around(f"chat {model}", attributes) as span:
            try:
                answer = await self._model.complete(request, self._turn.events.text, timings)
            finally:
                for interval in timings.intervals():
                    self._turn.ledger.add(interval.cause, interval.start, interval.end)
            span.set_attribute("gen_ai.usage.input_tokens", answer.usage.prompt)
            span.set_attribute("gen_ai.usage.output_tokens", answer.usage.completion)
            return answer

    def journaled_answer(self, step: int) -> ModelAnswer | None:
        kept = self._turn.journal.kept.get(f"{ANSWER}{step}")
        return None if kept is None else _answer(kept)

    async def journal_answer(self, step: int, answer: ModelAnswer, starts: Sequence[str]) -> None:
        steps = {f"{ANSWER}{step}": _encode(answer)} | {f"{START}{call_id}": _STARTED for call_id in starts}
        await self._turn.journal.keep(steps, starts=bool(starts))


def answers(kept: Mapping[str, bytes]) -> list[tuple[ToolCall, ...]]:
    """The calls that the model asked for with each answer, as they were journaled."""
    by_step = {int(name.removeprefix(ANSWER)): kept[name] for name in kept if name.startswith(ANSWER)}
    return [_answer(by_step[step]).tool_calls for step in sorted(by_step)]


def _newest_first(kept: Mapping[str, bytes]) -> Iterator[ToolCall]:
    for calls in reversed(answers(kept)):
        yield from (call for call in reversed(calls) if f"{START}{call.call_id}" in kept)
