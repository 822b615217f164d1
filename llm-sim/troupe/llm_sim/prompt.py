"""The prompt that a model would read: tools first, then the messages, as text in a fixed order.

What a longer conversation shares with a shorter one stands in front, byte for byte, so that the prefix cache finds it.
"""

from collections.abc import Iterator

import msgspec

from troupe.llm_sim.completion import Completion
from troupe.llm_sim.protocol import AssistantMessage, ChatRequest, Message, ToolMessage, text

_ANSWER = "<|assistant|>\n"
_END = "\n<|end|>\n"


def prompt(request: ChatRequest) -> str:
    """All that the model reads before its answer."""
    return "".join([*_tools(request), *(_message(message) for message in request.messages), _ANSWER])


def continued(completion: Completion) -> str:
    """What follows the prompt once the answer is part of the conversation."""
    return _said(completion.text, [(call.name, call.arguments) for call in completion.calls]) + _END


def _tools(request: ChatRequest) -> Iterator[str]:
    if request.tools and request.tool_choice != "none":
        yield f"<|tools|>\n{msgspec.json.encode(request.tools).decode()}{_END}"


def _message(message: Message) -> str:
    match message:
        case AssistantMessage(content=content, tool_calls=calls):
            made = [(call.function.name, call.function.arguments) for call in calls or []]
            return f"{_ANSWER}{_said(text(content), made)}{_END}"
        case ToolMessage(content=content, tool_call_id=call):
            return f"<|tool {call}|>\n{text(content)}{_END}"
        case _:
            role = type(message).__struct_config__.tag
            return f"<|{role}|>\n{text(message.content)}{_END}"


def _said(words: str, calls: list[tuple[str, str]]) -> str:
    return words + "".join(f"\n<|call {name}|>{arguments}" for name, arguments in calls)
