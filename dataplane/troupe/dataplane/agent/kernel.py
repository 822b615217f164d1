"""The decisions of a turn: the ReAct loop as a pure function.

    CALLING_MODEL --answer with calls--> CALLING_TOOLS --results--> CALLING_MODEL --answer--> ENDED

`decide` does no I/O and knows no clock and no chance: the same events give the same decisions, always, which is
what lets a journal stand for a turn. Whether a call names a tool that exists, with arguments that fit, is not
decided here: whoever carries out `CallTools` answers an impossible call with a failed result, and the model sees it.
"""

from enum import StrEnum
from typing import Protocol, assert_never

import msgspec
from msgspec import Struct

from troupe.chassis.errors import Internal
from troupe.dataplane.agent.conversation import (
    AssistantMessage,
    Entry,
    ModelAnswer,
    Usage,
    UserMessage,
)
from troupe.dataplane.tools.call import ToolCall, ToolMessage, call_digest

MAX_CALL_ID = 128
"""Characters of a call id; a longer one is replaced."""


class TurnLimits(Protocol):
    """What the kernel reads of an AgentConfig."""

    @property
    def max_steps(self) -> int: ...
    @property
    def max_repeated_calls(self) -> int: ...


class TurnStarted(Struct, frozen=True):
    """The turn's message is there."""

    message: UserMessage


class ModelAnswered(Struct, frozen=True):
    """The model call of the last decision ended well."""

    answer: ModelAnswer


class ToolsFinished(Struct, frozen=True):
    """Every call of the last decision has a result; in any order."""

    results: tuple[ToolMessage, ...]


TurnEvent = TurnStarted | ModelAnswered | ToolsFinished


class CallModel(Struct, frozen=True):
    """Ask the model, with the entries of the state. `step` counts the turn's model calls from 0."""

    step: int


class CallTools(Struct, frozen=True):
    """Carry out all of these, at once where possible. Never empty; ids are unique within the turn."""

    step: int
    calls: tuple[ToolCall, ...]


class Reply(Struct, frozen=True):
    """The turn's answer. Last decision."""

    text: str


class Fail(Struct, frozen=True):
    """The attempt failed. Last decision. `retryable`: asking the model again may help."""

    reason: str
    message: str
    retryable: bool


Decision = CallModel | CallTools | Reply | Fail


class Phase(StrEnum):
    """What the turn waits for."""

    NEW = "new"
    CALLING_MODEL = "calling model"
    CALLING_TOOLS = "calling tools"
    ENDED = "ended"


class TurnState(Struct, frozen=True):
    """Where a turn stands. `TurnState()` is one that has not begun."""

    phase: Phase = Phase.NEW
    step: int = 0
    """The model call that the turn is at."""
    entries: tuple[Entry, ...] = ()
    """The turn's part of the conversation so far, its message first."""
    pending: tuple[ToolCall, ...] = ()
    """Calls without a result, in the model's order."""
    repeats: tuple[tuple[str, int], ...] = ()
    """How often each call (digest of tool and arguments) was asked for."""
    call_ids: frozenset[str] = frozenset()
    usage: Usage = Usage()

    @property
    def message_id(self) -> str:
        return self.entries[0].message_id


def decide(state: TurnState, event: TurnEvent, config: TurnLimits) -> tuple[TurnState, Decision]:
    """What to do next. Raises Internal for an event that cannot follow: a defect of the caller."""
    match state.phase, event:
        case Phase.NEW, TurnStarted(message):
            return TurnState(phase=Phase.CALLING_MODEL, entries=(message,)), CallModel(step=0)
        case Phase.CALLING_MODEL, ModelAnswered(answer):
            return _answered(state, answer, config)
        case Phase.CALLING_TOOLS, ToolsFinished(results):
            return _finished(state, results)
        case _, TurnStarted() | ModelAnswered() | ToolsFinished():
            raise Internal("KERNEL_EVENT", f"a turn that is {state.phase} cannot take {type(event).__name__}")
        case _:
            assert_never(event)


def _answered(state: TurnState, answer: ModelAnswer, config: TurnLimits) -> tuple[TurnState, Decision]:
    state = msgspec.structs.replace(state, usage=state.usage + Usage.of(answer))
    if answer.finish_reason == "content_filter":
        return _fail(state, "CONTENT_FILTERED", "the model server's content filter stopped the answer")
    if answer.finish_reason == "length" and (answer.tool_calls or not answer.text.strip()):
        what = "a tool call" if answer.tool_calls else "an answer without text"
        return _fail(state, "OUTPUT_LIMIT", f"the answer was cut at its token limit in {what}; raise maxOutputTokens")
    if answer.tool_calls:
        return _asked(state, answer, config)
    if not answer.text.strip():
        return _fail(state, "EMPTY_ANSWER", "the model answered with neither text nor tool calls", retryable=True)
    said = AssistantMessage(text=answer.text, message_id=state.message_id)
    ended = msgspec.structs.replace(state, phase=Phase.ENDED, entries=(*state.entries, said))
    return ended, Reply(answer.text)


def _asked(state: TurnState, answer: ModelAnswer, config: TurnLimits) -> tuple[TurnState, Decision]:
    if state.step + 1 >= config.max_steps:
        # No model call may follow that could use the results, so the tools must not act either.
        why = f"no answer after {config.max_steps} model calls; raise maxSteps if the task needs more"
        return _fail(state, "MAX_STEPS", why)
    repeats = dict(state.repeats)
    for call in answer.tool_calls:
        digest = call_digest(call)
        repeats[digest] = repeats.get(digest, 0) + 1
        if repeats[digest] > config.max_repeated_calls:
            why = f"the model asked for the same call of {call.tool} more than {config.max_repeated_calls} times"
            return _fail(state, "REPEATED_CALL", why)
    calls = _with_unique_ids(state, answer.tool_calls)
    said = AssistantMessage(text=answer.text, message_id=state.message_id, tool_calls=calls)
    acting = msgspec.structs.replace(
        state,
        phase=Phase.CALLING_TOOLS,
        entries=(*state.entries, said),
        pending=calls,
        repeats=tuple(repeats.items()),
        call_ids=state.call_ids | {call.call_id for call in calls},
    )
    return acting, CallTools(step=state.step, calls=calls)


def _finished(state: TurnState, results: tuple[ToolMessage, ...]) -> tuple[TurnState, Decision]:
    by_id = {result.call_id: result for result in results}
    if len(by_id) != len(results) or by_id.keys() != {call.call_id for call in state.pending}:
        raise Internal("KERNEL_EVENT", f"step {state.step}: results are not those of the calls that were asked for")
    ordered = (by_id[call.call_id] for call in state.pending)
    step = state.step + 1
    thinking = msgspec.structs.replace(
        state, phase=Phase.CALLING_MODEL, step=step, entries=(*state.entries, *ordered), pending=()
    )
    return thinking, CallModel(step=step)


def _fail(state: TurnState, reason: str, message: str, *, retryable: bool = False) -> tuple[TurnState, Decision]:
    return msgspec.structs.replace(state, phase=Phase.ENDED), Fail(reason, message, retryable)


def _with_unique_ids(state: TurnState, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    """Servers leave ids out, repeat them in one answer, or start again from `call_0` in each."""
    taken = set(state.call_ids)
    unique: list[ToolCall] = []
    for index, call in enumerate(calls):
        call_id = call.call_id
        if not call_id or len(call_id) > MAX_CALL_ID or call_id in taken:
            call_id = f"call-{state.step}-{index}"
            while call_id in taken:
                call_id += "-again"
        taken.add(call_id)
        unique.append(msgspec.structs.replace(call, call_id=call_id))
    return tuple(unique)
