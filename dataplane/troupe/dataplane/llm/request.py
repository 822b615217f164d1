"""What a model is asked, and its form on the wire: the body of `POST /chat/completions`.

The body puts what never changes first and the conversation last, in order, so the body of a conversation that only
grew starts with the same bytes as the one before: what a model server's prefix cache wants.
"""

import msgspec
from msgspec import UNSET, Struct, UnsetType

from troupe.dataplane.agent.conversation import AssistantMessage, Entry, UserMessage
from troupe.dataplane.tools.call import ToolCall, ToolMessage


class ToolDeclaration(Struct, frozen=True):
    """A tool as the model is told of it."""

    name: str
    description: str
    parameters: msgspec.Raw
    """JSON Schema of the arguments, an object, encoded once."""


class ModelRequest(Struct, frozen=True):
    """One call's worth: everything but the endpoint. None leaves the choice to the model server."""

    system: str
    """Empty: no system message."""
    conversation: tuple[Entry, ...]
    tools: tuple[ToolDeclaration, ...] = ()
    temperature: float | None = None
    max_output_tokens: int | None = None

    def body(self, model: str) -> bytes:
        """The request body for the model that the endpoint knows as `model`; streamed, with usage."""
        system = [_System(content=self.system)] if self.system else []
        return _encoder.encode(
            _Body(
                model=model,
                temperature=UNSET if self.temperature is None else self.temperature,
                max_tokens=UNSET if self.max_output_tokens is None else self.max_output_tokens,
                tools=[_Tool(function=tool) for tool in self.tools] or UNSET,
                messages=[*system, *map(_message, self.conversation)],
            )
        )


class _System(Struct, tag_field="role", tag="system"):
    content: str


class _User(Struct, tag_field="role", tag="user"):
    content: str


class _Function(Struct):
    name: str
    arguments: str


class _Call(Struct, tag_field="type", tag="function"):
    id: str
    function: _Function


class _Assistant(Struct, tag_field="role", tag="assistant"):
    content: str | None
    tool_calls: list[_Call] | UnsetType = UNSET


class _ToolResult(Struct, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str


class _Tool(Struct, tag_field="type", tag="function"):
    function: ToolDeclaration


class _StreamOptions(Struct, frozen=True):
    include_usage: bool = True


class _Body(Struct, kw_only=True):
    model: str
    stream: bool = True
    stream_options: _StreamOptions = _StreamOptions()
    temperature: float | UnsetType
    max_tokens: int | UnsetType
    tools: list[_Tool] | UnsetType
    messages: list[_System | _User | _Assistant | _ToolResult]


_encoder = msgspec.json.Encoder()


def _message(entry: Entry) -> _User | _Assistant | _ToolResult:
    match entry:
        case UserMessage(text=text):
            return _User(content=text)
        case AssistantMessage(text=text, tool_calls=calls):
            asked = [
                _Call(id=call.call_id, function=_Function(call.tool, _arguments(call.arguments))) for call in calls
            ]
            return _Assistant(content=text or None, tool_calls=asked or UNSET)
        case ToolMessage(call_id=call_id, content=content):
            return _ToolResult(tool_call_id=call_id, content=content)


def _call(call: ToolCall) -> _Call:
    return _Call(id=call.call_id, function=_Function(call.tool, _arguments(call.arguments)))


def _arguments(text: str) -> str:
    """Servers parse the arguments of earlier calls for their chat template, and refuse the whole conversation when a
    model once wrote what is no JSON object; the tool's failed result has told the model what was wrong."""
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return "{}"
    return text
