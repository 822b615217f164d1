"""What a turn needs of the runtime that it runs in."""

from collections.abc import Sequence
from typing import Protocol

from troupe.dataplane.agent.conversation import ModelAnswer, ToolCall, ToolMessage
from troupe.dataplane.llm.request import ModelRequest


class TurnPorts(Protocol):
    """What a turn needs of the runtime. Whatever these raise ends the attempt as it is."""

    async def complete(self, request: ModelRequest, step: int) -> ModelAnswer:
        """Call the model, stream its text to the client, time it."""
        ...

    def journaled_answer(self, step: int) -> ModelAnswer | None:
        """The answer that an earlier attempt journaled for this step."""
        ...

    async def journal_answer(self, step: int, answer: ModelAnswer, starts: Sequence[str]) -> None:
        """Write the answer and the starts of these calls (call ids), all or nothing. Comes again for a step whose
        answer is journaled, with the same answer, when calls of it start that had not."""
        ...

    def journaled_start(self, step: int, call_id: str) -> bool:
        """Whether an earlier attempt journaled that this call begins."""
        ...

    def journaled_result(self, step: int, call_id: str) -> ToolMessage | None:
        """The result that an earlier attempt journaled for this call."""
        ...

    async def journal_result(self, step: int, result: ToolMessage) -> None:
        """Write a call's result. Comes from several tasks at once."""
        ...

    def tool_started(self, call: ToolCall) -> None:
        """Tell the client. Comes for replayed and refused calls too, each before its `tool_finished`."""
        ...

    def tool_finished(self, call: ToolCall, result: ToolMessage, replayed: bool, seconds: float) -> None:
        """Tell the client. `seconds` is the wall time of the call, 0 for one that was replayed or refused."""
        ...
