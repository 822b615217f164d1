"""An LLM agent as the actor runtime runs it: the agent's turn, with the runtime's journal, events and ledger."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from troupe.broker.retry import RetryPolicy
from troupe.chassis import tracing
from troupe.chassis.clock import Clock
from troupe.chassis.errors import InvalidArgument
from troupe.chassis.wire import duration
from troupe.dataplane.actors.behaviour import TurnContext, TurnResult
from troupe.dataplane.agent import history
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import ModelAnswer, ToolCall, ToolMessage, Usage, UserMessage
from troupe.dataplane.agent.turn import run_turn
from troupe.dataplane.llm.client import ModelClient
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.llm.timings import ModelTimings
from troupe.dataplane.tools.executor import ToolExecutor
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Content

_encode = msgspec.msgpack.Encoder().encode
_answer = msgspec.msgpack.Decoder(ModelAnswer).decode
_result = msgspec.msgpack.Decoder(ToolMessage).decode
_STARTED: Final = b""


@dataclass(frozen=True)
class AgentBehaviour:
    """One Agent of one revision. See `troupe.dataplane.actors.behaviour.Behaviour`."""

    revision_id: str
    generation: int
    config: AgentConfig
    model: ModelClient
    retry: RetryPolicy
    executor: ToolExecutor
    clock: Clock

    @property
    def deadline(self) -> float:
        return self.config.turn_deadline

    async def run(self, turn: TurnContext) -> TurnResult:
        if turn.message.content.WhichOneof("body") != "text":
            raise InvalidArgument("NOT_TEXT", f"agent {self.config.name} takes text, nothing else")
        result = await run_turn(
            UserMessage(turn.message.content.text, turn.message.id),
            history.replay(turn.history),
            self.config,
            _Ports(turn, self.model, self.clock),
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
        )


class _State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent's session keeps beside its history."""

    usage: Usage = Usage()


_state = msgspec.msgpack.Decoder(_State)


def usage_message(usage: Usage) -> turn_pb2.Usage:
    return turn_pb2.Usage(**msgspec.structs.asdict(usage))


class _Ports:
    """See `troupe.dataplane.agent.turn.TurnPorts`. Journal steps are `answer/STEP`, `start/STEP/CALL` and
    `result/STEP/CALL`."""

    def __init__(self, turn: TurnContext, model: ModelClient, clock: Clock) -> None:
        self._turn, self._model, self._clock = turn, model, clock

    async def complete(self, request: ModelRequest, step: int) -> ModelAnswer:
        timings = ModelTimings(self._clock.monotonic)
        with tracing.tracer().start_as_current_span(
            f"chat {self._model.endpoint.model}",
            attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": self._model.endpoint.model},
        ) as span:
            try:
                answer = await self._model.complete(request, self._turn.events.text, timings)
            finally:
                for interval in timings.intervals():
                    self._turn.ledger.add(interval.cause, interval.start, interval.end)
            span.set_attribute("gen_ai.usage.input_tokens", answer.usage.prompt)
            span.set_attribute("gen_ai.usage.output_tokens", answer.usage.completion)
            return answer

    def journaled_answer(self, step: int) -> ModelAnswer | None:
        kept = self._turn.journal.kept.get(f"answer/{step}")
        return None if kept is None else _answer(kept)

    async def journal_answer(self, step: int, answer: ModelAnswer, starts: Sequence[str]) -> None:
        steps = {f"answer/{step}": _encode(answer)} | {f"start/{step}/{call_id}": _STARTED for call_id in starts}
        await self._turn.journal.keep(steps, starts=bool(starts))

    def journaled_start(self, step: int, call_id: str) -> bool:
        return f"start/{step}/{call_id}" in self._turn.journal.kept

    def journaled_result(self, step: int, call_id: str) -> ToolMessage | None:
        kept = self._turn.journal.kept.get(f"result/{step}/{call_id}")
        return None if kept is None else _result(kept)

    async def journal_result(self, step: int, result: ToolMessage) -> None:
        await self._turn.journal.keep({f"result/{step}/{result.call_id}": _encode(result)}, starts=False)

    def tool_started(self, call: ToolCall) -> None:
        self._turn.events.tool_started(
            turn_pb2.ToolCallStarted(call_id=call.call_id, tool=call.tool, arguments=_compact(call.arguments))
        )

    def tool_finished(self, call: ToolCall, result: ToolMessage, replayed: bool, seconds: float) -> None:
        now = self._clock.monotonic()
        self._turn.ledger.add(turn_pb2.LEDGER_CAUSE_TOOL, now - seconds, now)
        self._turn.events.tool_finished(
            turn_pb2.ToolCallFinished(
                call_id=call.call_id,
                tool=call.tool,
                result=result.content,
                failed=result.failed,
                replayed=replayed,
                duration=duration(seconds),
            )
        )


def _compact(arguments: str) -> str:
    """The same JSON on one line; what is no JSON stays as the model wrote it."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except ValueError:
        return arguments
