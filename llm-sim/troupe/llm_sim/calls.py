"""Which tool calls a request still needs."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from troupe.llm_sim.arguments import fill, string_property
from troupe.llm_sim.arithmetic import expressions
from troupe.llm_sim.conversation import Conversation
from troupe.llm_sim.protocol import ChatRequest, ChosenTool, Tool


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call to make. Arguments that are a string are no JSON object, and go out as they are."""

    name: str
    arguments: dict[str, Any] | str

    @property
    def text(self) -> str:
        """The arguments as a message carries them."""
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False, separators=(",", ":"))


def wanted(request: ChatRequest, talk: Conversation) -> list[Wanted]:
    """What the last question asks for and was not called since, as far as `tool_choice` allows; with `required` and a
    tool chosen by name at least one call, whatever the question."""
    tools = request.tools or []
    match request.tool_choice:
        case "none":
            return []
        case ChosenTool(function=chosen):
            tools = [tool for tool in tools if tool.function.name == chosen.name]
            return (_asked(talk.question, tools) or [_forced(talk.question, tools)])[:1]
        case choice:
            pending = _asked(talk.question, tools)
            for done in talk.done:
                past = Wanted(done.call.function.name, _object(done.call.function.arguments))
                if past in pending:
                    pending.remove(past)
            return pending or ([_forced(talk.question, tools)] if choice == "required" else [])


def calculator(tools: Sequence[Tool]) -> tuple[Tool, str] | None:
    """The calculator among the tools, with the name of its argument for the expression: a tool that takes a string and
    has that name, or a description that speaks of calculating or arithmetic."""
    for tool in tools:
        argument = string_property(tool.function.parameters)
        about = tool.function.description or ""
        if argument and (tool.function.name == "calculator" or _ABOUT_ARITHMETIC.search(about)):
            return tool, argument
    return None


_ABOUT_ARITHMETIC = re.compile(r"calculat|arithmetic", re.IGNORECASE)


def _asked(question: str, tools: Sequence[Tool]) -> list[Wanted]:
    return _named(question, tools) or _computed(question, tools)


def _computed(question: str, tools: Sequence[Tool]) -> list[Wanted]:
    found = calculator(tools)
    if not found:
        return []
    tool, argument = found
    others = fill(tool.function.parameters, question)
    return [Wanted(tool.function.name, others | {argument: each}) for each in dict.fromkeys(expressions(question))]


def _named(question: str, tools: Sequence[Tool]) -> list[Wanted]:
    """Calls by name, with the arguments that the question gives. Without any they are made up, except for a calculator
    that has arithmetic to do."""
    calls = []
    for tool in tools:
        for end in _mentions(question, tool.function.name):
            given = _object(question, end)
            if isinstance(given, dict):
                calls.append(Wanted(tool.function.name, given))
            elif not _computed(question, [tool]):
                calls.append(_forced(question, [tool]))
    return calls


def _mentions(question: str, name: str) -> list[int]:
    """Where the question goes on after asking for the tool."""
    asking = (
        rf"\b(?:use|call|run|invoke)\s+(?:the\s+)?(?:tool\s+)?[`'\"]?{re.escape(name)}\b[`'\"]?"
        r"(?:\s+tool)?(?:\s+with\s+(?=\{))?"
    )
    return [found.end() for found in re.finditer(asking, question, re.IGNORECASE)]


def _forced(question: str, tools: Sequence[Tool]) -> Wanted:
    return Wanted(tools[0].function.name, fill(tools[0].function.parameters, question))


def _object(text: str, place: int = 0) -> dict[str, Any] | str:
    """The JSON object at this place of `text`, else `text` itself."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
