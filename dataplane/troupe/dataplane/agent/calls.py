"""The calls of one model answer: judged all together, journaled in one write, carried out at once.

What they came to is known before it is journaled, so that the model is asked meanwhile.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import ModelAnswer
from troupe.dataplane.agent.ports import TurnPorts
from troupe.dataplane.tools.call import ToolCall, ToolMessage
from troupe.dataplane.tools.calls import Calls, Hear
from troupe.dataplane.tools.errors import UnknownOutcome
from troupe.dataplane.tools.executor import ToolExecutor, ToolOutcome
from troupe.dataplane.tools.tool import Tool

_Heard = asyncio.Future[ToolMessage | UnknownOutcome]


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
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Tools run, and their results are written, in `tasks`."""
        self._step, self._message_id = step, message_id
        self._answer = answer
        self._ports = ports
        self._calls = Calls(config.tools, message_id, ports, executor)
        self._tasks, self._carried_out = tasks, list[asyncio.Task[object]]()
        self._results: dict[str, ToolMessage] = {}
        self._doubtful: list[tuple[ToolCall, UnknownOutcome]] = []

    async def run(self, replayed: bool) -> tuple[ToolMessage, ...]:
        """A result for each call, in the order of the calls; they are being journaled: see `kept`. Every call is judged
        before the first starts, and all that start do so at once. `replayed`: the answer is journaled already. Raises
        NonDeterministic, what the ports raise, and, once all other calls have their results, UnknownOutcome."""
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

    async def kept(self) -> None:
        """Return once all results are journaled: what follows from them may be acted on."""
        for task in self._carried_out:
            await task

    async def _carry_out(self, settled: list[tuple[ToolCall, ToolOutcome]], ready: list[tuple[ToolCall, Tool]]) -> None:
        asked, begun = len(self._doubtful), list[tuple[ToolCall, _Heard]]()
        for call, outcome in settled:
            settling = partial(self._calls.settle, call, outcome)
            begun.append((call, self._begin(settling, f"outcome of {call.call_id}")))
        for call, tool in ready:
            running = partial(self._calls.run, call, tool)
            begun.append((call, self._begin(running, f"tool {tool.name} of {self._message_id}")))
        for call, heard in begun:
            match await heard:
                case ToolMessage() as result:
                    self._results[call.call_id] = result
                case UnknownOutcome() as doubt:
                    # The others go on: cutting them off would leave their outcomes unknown as well.
                    self._doubtful.append((call, doubt))
        if self._doubtful:
            await self.kept()
            for call, doubt in self._doubtful[asked:]:
                await self._ports.ask(call, doubt)
            await self._ports.wait()

    def _begin(self, carry_out: Callable[[Hear], Coroutine[Any, Any, object]], name: str) -> _Heard:
        heard: _Heard = asyncio.get_running_loop().create_future()
        task = self._tasks.create_task(carry_out(partial(_tell, heard)), name=name)
        # A tool that cancels its own task comes to nothing, which ends the attempt.
        task.add_done_callback(lambda _: heard.cancel())
        self._carried_out.append(task)
        return heard


def _tell(heard: _Heard, outcome: ToolMessage | UnknownOutcome) -> None:
    """Nobody listens any more where the turn was stopped."""
    if not heard.done():
        heard.set_result(outcome)
