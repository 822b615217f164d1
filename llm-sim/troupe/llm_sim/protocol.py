"""A chat completions request as it arrives: typed, nothing decided yet.

Fields that do not change an answer of the simulator (temperature, user, metadata and the like) are accepted and let go;
fields that it would have to disobey are refused by `checks`.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from troupe.llm_sim.errors import bad_request
from troupe.llm_sim.script import Script


class Part(Struct, frozen=True):
    """One part of a content that is a list. Only text counts; a picture is taken and not looked at."""

    type: str
    text: str = ""


Content = str | list[Part]


class SystemMessage(Struct, frozen=True, tag_field="role", tag="system"):
    content: Content


class DeveloperMessage(Struct, frozen=True, tag_field="role", tag="developer"):
    content: Content


class UserMessage(Struct, frozen=True, tag_field="role", tag="user"):
    content: Content


class CalledFunction(Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(Struct, frozen=True):
    """A call that an assistant's message made; `function.arguments` is JSON text."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class AssistantMessage(Struct, frozen=True, tag_field="role", tag="assistant"):
    content: Content | None = None
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1)] | None = None


class ToolMessage(Struct, frozen=True, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class Function(Struct, frozen=True):
    """What a tool says about itself; `parameters` is a JSON schema."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct, frozen=True):
    function: Function
    type: Literal["function"]


class ChosenFunction(Struct, frozen=True):
    name: str


class ChosenTool(Struct, frozen=True):
    function: ChosenFunction
    type: Literal["function"]


class StreamOptions(Struct, frozen=True):
    include_usage: bool = False


class ResponseFormat(Struct, frozen=True):
    type: str


Tokens = Annotated[int, Meta(ge=1)]


class ChatRequest(Struct, frozen=True):
    """The body of POST /v1/chat/completions. `sim` is the simulator's own field; see `script`."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Tool], Meta(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    logprobs: bool | None = None
    response_format: ResponseFormat | None = None
    sim: Script | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens that the answer may have; None is no limit."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The texts before which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


def text(content: Content | None) -> str:
    """The words of a message's content."""
    if isinstance(content, list):
        return "\n".join(part.text for part in content if part.text)
    return content or ""


_decoder = msgspec.json.Decoder(ChatRequest)


def decode(body: bytes) -> ChatRequest:
    """Read a request's body. Raises ApiError 400 that names the field as OpenAI does, `messages[0].content`."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise refused(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"We could not parse the JSON body of your request: {error}.") from error


_WHERE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")


def refused(error: msgspec.ValidationError) -> Exception:
    """The 400 for a field that is missing, of the wrong type or out of range."""
    found = _WHERE.fullmatch(str(error))
    what, where = (found["what"], found["where"] or "") if found else (str(error), "")
    missing = _MISSING.fullmatch(what)
    if missing:
        param = f"{where}.{missing['name']}" if where else missing["name"]
        return bad_request(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    code = "invalid_type" if what.startswith("Expected") and ", got " in what else "invalid_value"
    subject = f"value for '{where}'" if where else "request"
    return bad_request(f"Invalid {subject}: {what.rstrip('.')}.", where or None, code)
