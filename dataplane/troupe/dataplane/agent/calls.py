"""The calls of one model answer: judged, journaled, carried out together."""

import asyncio
import time
from typing import Final

from troupe.chassis import tracing
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import ModelAnswer, ToolCall, ToolMessage
from troupe.dataplane.agent.errors import NonDeterministic, UnknownOutcome
from troupe.dataplane.agent.ports import TurnPorts
from troupe.dataplane.tools.executor import ToolExecutor, ToolOutcome, failure
from troupe.dataplane.tools.schema import InvalidArguments
from troupe.dataplane.tools.tool import Tool

IDEMPOTENT_TRIES: Final = 2
"""How often an idempotent tool that runs out of time is called in one attempt."""


class Calls:
    """The calls of the answer to one step's model call; `answer` has them under their unique ids."""

    def __init__(
        self,
        step: int,
        answer: ModelAnswer,
        message_id: str,
        config: AgentConfig,
        ports: TurnPorts,
        executor: ToolExecutor,
    ) -> None:
        self._step = step
        self._answer = answer
        self._message_id = message_id
        self._config = config
        self._ports = ports
        self._executor = executor
        self._results: dict[str, ToolMessage] = {}
        self._unknown: list[UnknownOutcome] = []

    async def run(self, replayed: bool) -> tuple[ToolMessage, ...]:
        """A result for each call, in the order of the calls. Every call is judged before the first starts, and all that
        start do so at once. `replayed`: the answer is journaled already. Raises UnknownOutcome, NonDeterministic, and
        what the ports raise; the tools that still run are stopped then, except under UnknownOutcome."""
        self._replay()
        open_calls = [call for call in self._answer.tool_calls if call.call_id not in self._results]
        refused: list[tuple[ToolCall, ToolOutcome]] = []
        ready: list[tuple[ToolCall, Tool]] = []
        for call in open_calls:
            judged = self._judge(call)
            if not isinstance(judged, ToolOutcome):
                ready.append((call, judged))
            elif self._ports.journaled_start(self._step, call.call_id):
                raise NonDeterministic(self._step, f"call {call.call_id} was started and is impossible now")
            else:
                refused.append((call, judged))
        starts = [call.call_id for call, tool in ready if not self._started_before(call, tool)]
        if starts or not replayed:
            await self._ports.journal_answer(self._step, self._answer, starts)
        await self._settle_all(refused, ready)
        return tuple(self._results[call.call_id] for call in self._answer.tool_calls)

    def _replay(self) -> None:
        for call in self._answer.tool_calls:
            result = self._ports.journaled_result(self._step, call.call_id)
            if result is None:
                continue
            if result.tool != call.tool:
                raise NonDeterministic(self._step, f"call {call.call_id} is {call.tool}, and was {result.tool}")
            self._results[call.call_id] = result
            self._ports.tool_started(call)
            self._ports.tool_finished(call, result, replayed=True, seconds=0.0)

    def _judge(self, call: ToolCall) -> Tool | ToolOutcome:
        tool = self._config.tools.get(call.tool)
        if tool is None:
            known = ", ".join(self._config.tools) or "none"
            return failure("UNKNOWN_TOOL", f"there is no tool {call.tool!r}; the tools are: {known}")
        try:
            tool.parameters.parse(call.arguments)
        except InvalidArguments as error:
            return failure("INVALID_ARGUMENTS", str(error))
        return tool

    def _started_before(self, call: ToolCall, tool: Tool) -> bool:
        started = self._ports.journaled_start(self._step, call.call_id)
        if started and not tool.idempotent:
            raise UnknownOutcome(tool.name, call.call_id, "was started by an attempt that ended before its result")
        return started

    async def _settle_all(
        self, refused: list[tuple[ToolCall, ToolOutcome]], ready: list[tuple[ToolCall, Tool]]
    ) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for call, outcome in refused:
                    tasks.create_task(self._refuse(call, outcome), name=f"refusal of {call.call_id}")
                for call, tool in ready:
                    tasks.create_task(self._call(call, tool), name=f"tool {tool.name}")
        except BaseExceptionGroup as group:
            raise _first(group) from None
        if self._unknown:
            raise self._unknown[0]

    async def _refuse(self, call: ToolCall, outcome: ToolOutcome) -> None:
        self._ports.tool_started(call)
        await self._finish(call, outcome, 0.0)

    async def _call(self, call: ToolCall, tool: Tool) -> None:
        self._ports.tool_started(call)
        began = time.monotonic()
        with tracing.tracer().start_as_current_span(
            f"execute_tool {tool.name}",
            attributes={"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool.name},
        ):
            for _ in range(IDEMPOTENT_TRIES if tool.idempotent else 1):
                outcome = await self._executor.call(tool, call.arguments)
                if outcome.code != "TOOL_TIMEOUT":
                    break
        if outcome.unknown:
            # The others go on: cutting them off would leave their outcomes unknown as well.
            self._unknown.append(UnknownOutcome(tool.name, call.call_id, "was given up while it ran"))
            return
        await self._finish(call, outcome, time.monotonic() - began)

    async def _finish(self, call: ToolCall, outcome: ToolOutcome, seconds: float) -> None:
        result = ToolMessage(call.call_id, call.tool, outcome.content, self._message_id, outcome.failed)
        await self._ports.journal_result(self._step, result)
        self._results[call.call_id] = result
        self._ports.tool_finished(call, result, replayed=False, seconds=seconds)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
