"""The calls of one model answer: judged all together, journaled in one write, carried out at once."""

import asyncio

from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import ModelAnswer
from troupe.dataplane.agent.ports import TurnPorts
from troupe.dataplane.tools.call import ToolCall, ToolMessage
from troupe.dataplane.tools.calls import Calls
from troupe.dataplane.tools.errors import UnknownOutcome
from troupe.dataplane.tools.executor import ToolExecutor, ToolOutcome
from troupe.dataplane.tools.tool import Tool


class AnswerCalls:
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
        self._step, self._message_id = step, message_id
        self._answer = answer
        self._ports = ports
        self._calls = Calls(config.tools, message_id, ports, executor)
        self._results: dict[str, ToolMessage] = {}
        self._doubtful: list[tuple[ToolCall, UnknownOutcome]] = []

    async def run(self, replayed: bool) -> tuple[ToolMessage, ...]:
        """A result for each call, in the order of the calls. Every call is judged before the first starts, and all that
        start do so at once. `replayed`: the answer is journaled already. Raises UnknownOutcome, NonDeterministic, and
        what the ports raise; the tools that still run are stopped then, except under UnknownOutcome."""
        settled: list[tuple[ToolCall, ToolOutcome]] = []
        ready: list[tuple[ToolCall, Tool]] = []
        for call in self._answer.tool_calls:
            if (result := self._calls.replayed(call)) is not None:
                self._results[call.call_id] = result
                continue
            judged = self._calls.judge(call)
            if isinstance(judged, ToolOutcome):
                settled.append((call, judged))
            elif (doubt := self._calls.doubt(call, judged)) is None:
                ready.append((call, judged))
            elif (said := await self._ports.ask(call, doubt)) is not None:
                settled.append((call, said))
            else:
                self._doubtful.append((call, doubt))
        starts = [call.call_id for call, _ in ready if not self._ports.journaled_start(call.call_id)]
        if starts or not replayed:
            await self._ports.journal_answer(self._step, self._answer, starts)
        await self._carry_out(settled, ready)
        return tuple(self._results[call.call_id] for call in self._answer.tool_calls)

    async def _carry_out(self, settled: list[tuple[ToolCall, ToolOutcome]], ready: list[tuple[ToolCall, Tool]]) -> None:
        known = len(self._doubtful)
        try:
            async with asyncio.TaskGroup() as tasks:
                for call, outcome in settled:
                    tasks.create_task(self._settle(call, outcome), name=f"outcome of {call.call_id}")
                for call, tool in ready:
                    tasks.create_task(self._run(call, tool), name=f"tool {tool.name} of {self._message_id}")
        except BaseExceptionGroup as group:
            raise _first(group) from None
        for call, doubt in self._doubtful[known:]:
            await self._ports.ask(call, doubt)
        if self._doubtful:
            await self._ports.wait()

    async def _settle(self, call: ToolCall, outcome: ToolOutcome) -> None:
        self._results[call.call_id] = await self._calls.settle(call, outcome)

    async def _run(self, call: ToolCall, tool: Tool) -> None:
        match await self._calls.run(call, tool):
            case UnknownOutcome() as doubt:
                # The others go on: cutting them off would leave their outcomes unknown as well.
                self._doubtful.append((call, doubt))
            case ToolMessage() as result:
                self._results[call.call_id] = result


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
