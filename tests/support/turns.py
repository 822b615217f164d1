"""A runtime for one turn at a time: a scripted model, a journal in memory, tools that count their calls."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from troupe.dataplane.agent.conversation import ModelAnswer, ToolCall, ToolMessage
from troupe.dataplane.llm.request import ModelRequest

T = TypeVar("T")


class Crash(Exception):
    """The worker dies here."""


@dataclass
class Journal:
    """What survives a worker."""

    answers: dict[int, ModelAnswer] = field(default_factory=dict)
    starts: set[tuple[int, str]] = field(default_factory=set)
    results: dict[tuple[int, str], ToolMessage] = field(default_factory=dict)


@dataclass
class ScriptedPorts:
    """The ports of one attempt. The model answers step n with `script[n]`; `crash_at` counts everything that the turn
    asks of the runtime, and the worker dies before (`after=False`) or after that has happened."""

    script: Sequence[ModelAnswer]
    journal: Journal = field(default_factory=Journal)
    crash_at: int | None = None
    after: bool = False
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
            self.journal.starts |= {(step, call_id) for call_id in starts}
            self.writes.append(("answer", *starts))
            self.events.append(("answer journaled", str(step)))

        await self._do(write)

    def journaled_start(self, step: int, call_id: str) -> bool:
        return (step, call_id) in self.journal.starts

    def journaled_result(self, step: int, call_id: str) -> ToolMessage | None:
        return self.journal.results.get((step, call_id))

    async def journal_result(self, step: int, result: ToolMessage) -> None:
        def write() -> None:
            self.journal.results[step, result.call_id] = result
            self.writes.append(("result", result.call_id))
            self.events.append(("result journaled", result.call_id))

        await self._do(write)

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
