"""What the messages of a request come to: what the user said, and what was called since."""

from collections.abc import Sequence
from dataclasses import dataclass

from troupe.llm_sim.protocol import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage, text


@dataclass(frozen=True, slots=True)
class Done:
    """A call since the user spoke last, with what the tool answered."""

    call: ToolCall
    result: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """`said` is all that the user said, oldest first; `done` belongs to the last of it, in the order of the results."""

    said: tuple[str, ...]
    done: tuple[Done, ...]
    awaits_words: bool
    """Whether the last message is a tool's result."""

    @property
    def question(self) -> str:
        """What the user said last; empty when nothing."""
        return self.said[-1] if self.said else ""


def read(messages: Sequence[Message]) -> Conversation:
    """Messages in an order that `checks` lets through."""
    said: list[str] = []
    calls: dict[str, ToolCall] = {}
    done: list[Done] = []
    for message in messages:
        match message:
            case UserMessage(content=content):
                said.append(text(content))
                done.clear()
            case AssistantMessage(tool_calls=made) if made:
                calls = {call.id: call for call in made}
            case ToolMessage(content=content, tool_call_id=call):
                done.append(Done(calls[call], text(content)))
            case _:
                pass
    return Conversation(tuple(said), tuple(done), isinstance(messages[-1], ToolMessage))
