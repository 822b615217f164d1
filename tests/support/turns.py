"""A runtime for one turn at a time: a scripted model, a journal in memory, tools that count their calls."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Never, TypeVar

from troupe.dataplane.agent.conversation import ModelAnswer
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.tools.call import ToolCall, ToolMessage
from troupe.dataplane.tools.errors import UnknownOutcome
from troupe.dataplane.tools.executor import ToolOutcome

T = TypeVar("T")


class Crash(BaseException):
    """The worker dies here: nothing of it comes to its end."""


class Suspended(Exception):
    """The turn waits for a person."""


@dataclass
class Journal:
    """What survives a worker."""

    answers: dict[int, ModelAnswer] = field(default_factory=dict)
    starts: set[str] = field(default_factory=set)
    results: dict[str, ToolMessage] = field(default_factory=dict)
    said: dict[str, ToolOutcome] = field(default_factory=dict)
    """What a person says of calls, by their ids."""


@dataclass
class ScriptedPorts:
    """The ports of one attempt. The model answers step n with `script[n]`; `crash_at` counts everything that the turn
    asks of the runtime, and the worker dies before (`after=False`) or after that has happened."""

    script: Sequence[ModelAnswer]
    journal: Journal = field(default_factory=Journal)
    crash_at: int | None = None
    after: bool = False
    asks: bool = False
    requests: list[ModelRequest] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    """(what happened, call id or step), in order."""
    writes: list[tuple[str, ...]] = field(default_factory=list)

    async def complete(self, request: ModelRequest, step: int) -> ModelAnswer:
        def call() -> ModelAnswer:
            self.requests.append(request)
            self.events.append(("model", str(step)))
            return self.script[step]

        return await self._do(call)

    def journaled_answer(self, step: int) -> ModelAnswer | None:
        return self.journal.answers.get(step)

    async def journal_answer(self, step: int, answer: ModelAnswer, starts: Sequence[str]) -> None:
        def write() -> None:
            self.journal.answers[step] = answer
            self.journal.starts |= set(starts)
            self.writes.append(("answer", *starts))
            self.events.append(("answer journaled", str(step)))

        await self._do(write)

    def journaled_start(self, call_id: str) -> bool:
        return call_id in self.journal.starts

    def journaled_result(self, call_id: str) -> ToolMessage | None:
        return self.journal.results.get(call_id)

    async def journal_result(self, result: ToolMessage, seconds: float) -> None:
        def write() -> None:
            self.journal.results[result.call_id] = result
            self.writes.append(("result", result.call_id))
            self.events.append(("result journaled", result.call_id))

        await self._do(write)

    def calling(self, call: ToolCall) -> AbstractContextManager[None]:
        return nullcontext()

    async def ask(self, call: ToolCall, error: UnknownOutcome) -> ToolOutcome | None:
        if not self.asks:
            raise error
        self.events.append(("asked", call.call_id))
        return self.journal.said.get(call.call_id)

    async def wait(self) -> Never:
        self.events.append(("waits", ""))
        raise Suspended

    def tool_started(self, call: ToolCall) -> None:
        self.events.append(("started", call.call_id))

    def tool_finished(self, call: ToolCall, result: ToolMessage, replayed: bool, seconds: float) -> None:
        assert result.call_id == call.call_id
        assert seconds >= 0
        self.events.append(("replayed" if replayed else "finished", call.call_id))

    async def _do(self, action: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        dies = self.crash_at == 0
        if self.crash_at is not None:
            self.crash_at -= 1
        if dies and not self.after:
            raise Crash
        value = action()
        if dies:
            raise Crash
        return value
