"""What a turn needs of the runtime that it runs in."""

from collections.abc import Sequence
from typing import Protocol

from troupe.dataplane.agent.conversation import ModelAnswer
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.tools.calls import CallPorts


class TurnPorts(CallPorts, Protocol):
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
