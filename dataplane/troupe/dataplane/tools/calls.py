"""How a call is carried out, whoever asks for it, a model or an actor: judged, replayed, run, journaled, shown."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, Never, Protocol

from troupe.chassis import tracing
from troupe.dataplane.tools.call import ToolCall, ToolMessage
from troupe.dataplane.tools.errors import NonDeterministic, UnknownOutcome
from troupe.dataplane.tools.executor import ToolExecutor, ToolOutcome, failure
from troupe.dataplane.tools.schema import InvalidArguments
from troupe.dataplane.tools.tool import Tool

IDEMPOTENT_TRIES: Final = 2
"""How often an idempotent tool that runs out of time is called in one attempt."""

Hear = Callable[[ToolMessage | UnknownOutcome], None]
"""Hears what a call came to before that is journaled: nothing may act on it yet, nor be shown that follows from it."""


class CallPorts(Protocol):
    """What calls need of the runtime. Whatever these raise ends the attempt as it is."""

    def journaled_start(self, call_id: str) -> bool:
        """Whether an earlier attempt journaled that this call begins."""
        ...

    def journaled_result(self, call_id: str) -> ToolMessage | None:
        """The result that an earlier attempt journaled for this call."""
        ...

    async def journal_result(self, result: ToolMessage, seconds: float) -> None:
        """Write a call's result, right after its tool ran for so long. Comes from several tasks at once."""
        ...

    def calling(self, call: ToolCall) -> AbstractContextManager[None]:
        """Around a tool that runs, and the writing of its result: the attempt does not end in a wait meanwhile, no text
        is shown, and the tool knows its key."""
        ...

    async def ask(self, call: ToolCall, error: UnknownOutcome) -> ToolOutcome | None:
        """What a person says that this call came to; None: nobody has yet, and it is asked for. Raises `error` where
        nobody is to be asked."""
        ...

    async def wait(self) -> Never:
        """End the attempt, until one of those that were asked for is answered."""
        ...

    def tool_started(self, call: ToolCall) -> None:
        """Tell the client. Comes for replayed and refused calls too, each before its `tool_finished`."""
        ...

    def tool_finished(self, call: ToolCall, result: ToolMessage, replayed: bool, seconds: float) -> None:
        """Tell the client. `seconds` is the wall time of the call, 0 for one that was replayed or refused."""
        ...


class Calls:
    """The calls of one turn. A call's start is journaled by whoever makes it, before `run`."""

    def __init__(self, tools: Mapping[str, Tool], message_id: str, ports: CallPorts, executor: ToolExecutor) -> None:
        self._tools, self._message_id, self._ports, self._executor = tools, message_id, ports, executor

    def replayed(self, call: ToolCall) -> ToolMessage | None:
        """The result that is journaled, shown; None where none is. Raises NonDeterministic where it is of another
        tool."""
        result = self._ports.journaled_result(call.call_id)
        if result is None:
            return None
        if result.tool != call.tool:
            raise NonDeterministic(f"call {call.call_id} is {call.tool}, and was {result.tool}")
        self._ports.tool_started(call)
        self._ports.tool_finished(call, result, replayed=True, seconds=0.0)
        return result

    def judge(self, call: ToolCall) -> Tool | ToolOutcome:
        """The tool, where the call is possible, or why it fails. Raises NonDeterministic for one that is impossible now
        and was started before."""
        judged = self._judged(call)
        if isinstance(judged, ToolOutcome) and self._ports.journaled_start(call.call_id):
            raise NonDeterministic(f"call {call.call_id} was started and is impossible now")
        return judged

    def doubt(self, call: ToolCall, tool: Tool) -> UnknownOutcome | None:
        """Why the call must not be run: it was started, by an attempt that did not see its end."""
        if tool.idempotent or not self._ports.journaled_start(call.call_id):
            return None
        return UnknownOutcome(tool.name, call.call_id, "was started by an attempt that ended before its result")

    async def run(self, call: ToolCall, tool: Tool, hear: Hear = lambda _: None) -> ToolMessage | UnknownOutcome:
        """Run it and journal its result. UnknownOutcome where it was given up while it ran."""
        with self._ports.calling(call):
            return await self._run(call, tool, hear)

    async def settle(self, call: ToolCall, outcome: ToolOutcome, hear: Hear = lambda _: None) -> ToolMessage:
        """Journal and show an outcome that nothing was run for: a refusal, or what a person said."""
        with self._ports.calling(call):
            self._ports.tool_started(call)
            return await self._finish(call, outcome, 0.0, hear)

    async def _run(self, call: ToolCall, tool: Tool, hear: Hear) -> ToolMessage | UnknownOutcome:
        self._ports.tool_started(call)
        began = time.monotonic()
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool.name}
        with tracing.around(f"execute_tool {tool.name}", attributes):
            for _ in range(IDEMPOTENT_TRIES if tool.idempotent else 1):
                outcome = await self._executor.call(tool, call.arguments)
                if outcome.code != "TOOL_TIMEOUT":
                    break
        if outcome.unknown:
            doubt = UnknownOutcome(tool.name, call.call_id, "was given up while it ran")
            hear(doubt)
            return doubt
        return await self._finish(call, outcome, time.monotonic() - began, hear)

    async def _finish(self, call: ToolCall, outcome: ToolOutcome, seconds: float, hear: Hear) -> ToolMessage:
        result = ToolMessage(call.call_id, call.tool, outcome.content, self._message_id, outcome.failed, outcome.json)
        hear(result)
        await self._ports.journal_result(result, seconds)
        self._ports.tool_finished(call, result, replayed=False, seconds=seconds)
        return result

    def _judged(self, call: ToolCall) -> Tool | ToolOutcome:
        tool = self._tools.get(call.tool)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return failure("UNKNOWN_TOOL", f"there is no tool {call.tool!r}; the tools are: {known}")
        try:
            tool.parameters.parse(call.arguments)
        except InvalidArguments as error:
            return failure("INVALID_ARGUMENTS", str(error))
        return tool
