"""A streamed chat completion: the bytes of the body in, text as it comes, the whole answer at the end. Pure.

Servers differ, so this takes what they send: calls in fragments by index, interleaved; fragments without an index
or id; a call at once; usage in a chunk of its own, in the last one or in each; an error object in the stream; no
`[DONE]`. What it does not take is an answer without a finish reason: that one was cut.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import Struct

from troupe.dataplane.agent.conversation import ModelAnswer, TokenUsage
from troupe.dataplane.llm.sse import EventParser, EventTooLarge
from troupe.dataplane.tools.call import ToolCall

MAX_ANSWER: Final = 8 * 1024 * 1024
"""Characters of an answer, text and arguments together."""
MAX_CALLS: Final = 128
"""Tool calls of an answer."""


class Garbage(ValueError):
    """What came is no chat completion stream."""


class ErrorInStream(Exception):
    """The server reported an error after it had answered 200. `code` is a number like an HTTP status, 0 if unknown."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Cut(Exception):
    """The stream ended before the answer did."""


class AnswerStream:
    """One answer as it grows. After an exception it is of no further use."""

    __slots__ = ("_calls", "_finish_reason", "_parser", "_size", "_text", "_usage", "done", "events", "started")

    def __init__(self) -> None:
        self._parser = EventParser()
        self._text: list[str] = []
        self._calls: list[_GrowingCall] = []
        self._finish_reason = ""
        self._usage = TokenUsage()
        self._size = 0
        self.started = False
        """Whether anything of the answer itself has come: a token."""
        self.done = False
        """Whether `[DONE]` has come: nothing more will."""
        self.events = 0

    def feed(self, received: bytes) -> str:
        """The text that these bytes add to the answer; empty when they add none. Raises Garbage, ErrorInStream."""
        try:
            events = self._parser.feed(received)
        except EventTooLarge as error:
            raise Garbage(str(error)) from error
        if len(events) == 1:
            return self._take(events[0])
        return "".join([self._take(event) for event in events])

    def answer(self) -> ModelAnswer:
        """The complete answer. Raises Cut when there is none, Garbage when a call of it names no tool."""
        if not self._finish_reason:
            raise Cut("the stream ended without a finish reason")
        calls = tuple(call.finished() for call in self._calls)
        if any(not call.tool for call in calls):
            raise Garbage("a tool call without a name")
        return ModelAnswer("".join(self._text), calls, self._finish_reason, self._usage)

    def _take(self, event: bytes) -> str:
        if self.done or not event or event.isspace():
            return ""
        self.events += 1
        if event.strip() == b"[DONE]":
            self.done = True
            return ""
        try:
            chunk = _decode(event)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Garbage(f"{error}: {event[:200]!r}") from error
        if chunk.error is not None or chunk.object == "error":
            raise _error_in(chunk)
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason
        delta = choice.delta
        if delta is None:
            return ""
        if delta.tool_calls:
            self.started = True
            for fragment in delta.tool_calls:
                self._add(fragment)
        text = delta.content or delta.refusal
        if not text:
            self.started = self.started or bool(delta.reasoning_content or delta.reasoning)
            return ""
        self.started = True
        self._grow(len(text))
        self._text.append(text)
        return text

    def _add(self, fragment: "_CallDelta") -> None:
        call = self._call_of(fragment)
        if fragment.id and not call.call_id:
            call.call_id = fragment.id
        if fragment.function is None:
            return
        if fragment.function.name and not call.tool:
            call.tool = fragment.function.name
        if fragment.function.arguments:
            self._grow(len(fragment.function.arguments))
            call.arguments.append(fragment.function.arguments)

    def _call_of(self, fragment: "_CallDelta") -> "_GrowingCall":
        """By index; without one by id; with neither, a named fragment begins a call and the others go on with it.
        A named fragment with an id of its own begins a call too: some servers give every call the index 0."""
        names_a_tool = fragment.function is not None and bool(fragment.function.name)
        for call in reversed(self._calls):
            if fragment.index is not None:
                other = names_a_tool and fragment.id and call.call_id and fragment.id != call.call_id
                found = call.index == fragment.index and not other
            elif fragment.id:
                found = call.call_id == fragment.id
            else:
                found = not names_a_tool
            if found:
                return call
        if len(self._calls) == MAX_CALLS:
            raise Garbage(f"an answer with more than {MAX_CALLS} tool calls")
        self._calls.append(_GrowingCall(fragment.index))
        return self._calls[-1]

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_ANSWER:
            raise Garbage(f"an answer of more than {MAX_ANSWER} characters")


@dataclass(slots=True)
class _GrowingCall:
    index: int | None
    call_id: str = ""
    tool: str = ""
    arguments: list[str] = field(default_factory=list)

    def finished(self) -> ToolCall:
        return ToolCall(self.call_id, self.tool, "".join(self.arguments))


class ErrorBody(Struct):
    """What servers say of an error, in the stream or as the body of a refusal; the fields that most of them share."""

    message: str | None = None
    code: int | str | None = None


class _FunctionDelta(Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(Struct):
    index: int | None = None
    id: str | None = None
    function: _FunctionDelta | None = None


class _Delta(Struct):
    content: str | None = None
    tool_calls: list[_CallDelta] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _CachedTokens(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: ErrorBody | str | None = None
    object: str | None = None
    message: str | None = None
    code: int | str | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


def _error_in(chunk: _Chunk) -> ErrorInStream:
    match chunk.error:
        case ErrorBody(message=message, code=code):
            pass
        case message:
            code = chunk.code
    return ErrorInStream(message or chunk.message or "the server reported an error", _status(code))


def _status(code: int | str | None) -> int:
    text = str(code or "")
    return int(text) if text.isdecimal() and len(text) == 3 else 0


def _usage(usage: _Usage) -> TokenUsage:
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details else 0
    return TokenUsage(usage.prompt_tokens or 0, usage.completion_tokens or 0, cached or 0)
