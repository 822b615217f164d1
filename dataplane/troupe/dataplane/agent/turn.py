"""One attempt at a turn: carries out what the kernel decides, and journals what must not happen twice.

An answer of the model with tool calls is journaled before anything acts on it, in one write with the starts of the
calls that begin at once; a tool's result before the kernel sees it. The last answer is not: the commit stores it. An
attempt that finds a journal goes the same way as the one that wrote it, with what is written there in place of calls.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, assert_never

from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.dataplane.agent import kernel
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import Entry, ModelAnswer, ToolCall, ToolMessage, Usage, UserMessage
from troupe.dataplane.agent.errors import NonDeterministic, UnknownOutcome
from troupe.dataplane.agent.kernel import CallModel, CallTools, Fail, Reply, TurnState
from troupe.dataplane.agent.prompt import Window
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.tools.executor import ToolExecutor, ToolOutcome, failure
from troupe.dataplane.tools.schema import InvalidArguments
from troupe.dataplane.tools.tool import Tool

IDEMPOTENT_TRIES: Final = 2
"""How often an idempotent tool that runs out of time is called in one attempt."""


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


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What a turn came to, for the commit."""

    text: str
    entries: tuple[Entry, ...]
    """What it adds to the history: its message first, its answer last."""
    usage: Usage


async def run_turn(
    message: UserMessage,
    history: Sequence[Entry],
    config: AgentConfig,
    ports: TurnPorts,
    executor: ToolExecutor,
    *,
    session: str,
) -> TurnResult:
    """Run the turn of `message` to its answer. `history` are the entries of the turns before; it is only read.

    Cancelling stops the model call and the tools at once. Raises what the ports raise; UnknownOutcome where a tool that
    is not idempotent started and left no result; NonDeterministic where the journal does not fit; FailedPrecondition
    (CONTEXT_TOKENS, MAX_STEPS, REPEATED_CALL, OUTPUT_LIMIT, CONTENT_FILTERED, BAD_TEMPLATE) and Unavailable
    (EMPTY_ANSWER) for a turn that cannot end well."""
    prompt = _Prompt(history, config, session)
    state, decision = kernel.decide(TurnState(), kernel.TurnStarted(message), config)
    while True:
        match decision:
            case CallModel(step):
                answer, replayed = await _answer(ports, prompt, state, step)
                state, decision = kernel.decide(state, kernel.ModelAnswered(answer), config)
                if replayed:
                    _check_replay(step, answer, decision)
            case CallTools(step, calls):
                asked = ModelAnswer(answer.text, calls, answer.finish_reason, answer.usage)
                results = await _Step(step, asked, message.message_id, config, ports, executor).run(replayed)
                state, decision = kernel.decide(state, kernel.ToolsFinished(results), config)
            case Reply(text):
                return TurnResult(text, state.entries, state.usage)
            case Fail() as failed:
                _raise(failed, config)
            case _:
                assert_never(decision)


async def _answer(ports: TurnPorts, prompt: "_Prompt", state: TurnState, step: int) -> tuple[ModelAnswer, bool]:
    """The model's answer, and whether it comes from the journal."""
    journaled = ports.journaled_answer(step)
    if journaled is not None:
        return journaled, True
    return await ports.complete(prompt.request(state.entries), step), False


def _check_replay(step: int, answer: ModelAnswer, decision: kernel.Decision) -> None:
    """Only answers that led to calls are journaled, under the ids that the kernel gave these calls."""
    if not isinstance(decision, CallTools):
        raise NonDeterministic(step, f"its answer led to calls and now to {type(decision).__name__}")
    if decision.calls != answer.tool_calls:
        raise NonDeterministic(step, "its answer now leads to other calls")


def _raise(failed: Fail, config: AgentConfig) -> NoReturn:
    error: type[TroupeError] = Unavailable if failed.retryable else FailedPrecondition
    raise error(failed.reason, f"{config.resource}: {failed.message}", resource=config.resource)


class _Prompt:
    """The conversation as the model is shown it, growing with the turn."""

    def __init__(self, history: Sequence[Entry], config: AgentConfig, session: str) -> None:
        self._config = config
        self._system = config.system(session)
        self._entries = list(history)
        self._before = len(history)
        self._window: Window = config.window(self._system).extended(history)

    def request(self, turn: Sequence[Entry]) -> ModelRequest:
        """The request that ends with the turn's newest entry."""
        new = turn[len(self._entries) - self._before :]
        self._entries.extend(new)
        self._window = self._window.extended(new)
        if self._window.excess:
            needed = self._window.budget + self._window.excess
            raise FailedPrecondition(
                "CONTEXT_TOKENS",
                f"{self._config.resource}: this turn alone needs about {needed} tokens, contextTokens is "
                f"{self._window.budget}; raise it, or let messages and tools say less",
                resource=self._config.resource,
            )
        return ModelRequest(
            system=self._system,
            conversation=tuple(self._entries[self._window.start :]),
            tools=self._config.declarations,
            temperature=self._config.temperature,
            max_output_tokens=self._config.max_output_tokens,
        )


class _Step:
    """The calls of one answer."""

    def __init__(
        self,
        step: int,
        answer: ModelAnswer,
        message_id: str,
        config: AgentConfig,
        ports: TurnPorts,
        executor: ToolExecutor,
    ) -> None:
        self._step = step
        self._answer = answer
        self._message_id = message_id
        self._config = config
        self._ports = ports
        self._executor = executor
        self._results: dict[str, ToolMessage] = {}
        self._unknown: list[UnknownOutcome] = []

    async def run(self, replayed: bool) -> tuple[ToolMessage, ...]:
        """A result for each call, in the order of the calls. Every call is judged before the first starts."""
        self._replay()
        open_calls = [call for call in self._answer.tool_calls if call.call_id not in self._results]
        refused: list[tuple[ToolCall, ToolOutcome]] = []
        ready: list[tuple[ToolCall, Tool]] = []
        for call in open_calls:
            judged = self._judge(call)
            if isinstance(judged, ToolOutcome):
                refused.append((call, judged))
            else:
                ready.append((call, judged))
        starts = [call.call_id for call, tool in ready if not self._started_before(call, tool)]
        if starts or not replayed:
            await self._ports.journal_answer(self._step, self._answer, starts)
        await self._settle_all(refused, ready)
        return tuple(self._results[call.call_id] for call in self._answer.tool_calls)

    def _replay(self) -> None:
        for call in self._answer.tool_calls:
            result = self._ports.journaled_result(self._step, call.call_id)
            if result is None:
                continue
            if result.tool != call.tool:
                raise NonDeterministic(self._step, f"call {call.call_id} is {call.tool}, and was {result.tool}")
            self._results[call.call_id] = result
            self._ports.tool_started(call)
            self._ports.tool_finished(call, result, replayed=True, seconds=0.0)

    def _judge(self, call: ToolCall) -> Tool | ToolOutcome:
        tool = self._config.tools.get(call.tool)
        if tool is None:
            known = ", ".join(self._config.tools) or "none"
            return failure("UNKNOWN_TOOL", f"there is no tool {call.tool!r}; the tools are: {known}")
        try:
            tool.parameters.parse(call.arguments)
        except InvalidArguments as error:
            return failure("INVALID_ARGUMENTS", str(error))
        return tool

    def _started_before(self, call: ToolCall, tool: Tool) -> bool:
        started = self._ports.journaled_start(self._step, call.call_id)
        if started and not tool.idempotent:
            raise UnknownOutcome(tool.name, call.call_id, "was started by an attempt that ended before its result")
        return started

    async def _settle_all(
        self, refused: list[tuple[ToolCall, ToolOutcome]], ready: list[tuple[ToolCall, Tool]]
    ) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for call, outcome in refused:
                    tasks.create_task(self._refuse(call, outcome), name=f"refusal of {call.call_id}")
                for call, tool in ready:
                    tasks.create_task(self._call(call, tool), name=f"tool {tool.name}")
        except BaseExceptionGroup as group:
            raise _first(group) from None
        if self._unknown:
            raise self._unknown[0]

    async def _refuse(self, call: ToolCall, outcome: ToolOutcome) -> None:
        self._ports.tool_started(call)
        await self._finish(call, outcome, 0.0)

    async def _call(self, call: ToolCall, tool: Tool) -> None:
        self._ports.tool_started(call)
        began = time.monotonic()
        for _ in range(IDEMPOTENT_TRIES if tool.idempotent else 1):
            outcome = await self._executor.call(tool, call.arguments)
            if outcome.code != "TOOL_TIMEOUT":
                break
        if outcome.unknown:
            # The others go on: cutting them off would leave their outcomes unknown as well.
            self._unknown.append(UnknownOutcome(tool.name, call.call_id, "was given up while it ran"))
            return
        await self._finish(call, outcome, time.monotonic() - began)

    async def _finish(self, call: ToolCall, outcome: ToolOutcome, seconds: float) -> None:
        result = ToolMessage(call.call_id, call.tool, outcome.content, self._message_id, outcome.failed)
        await self._ports.journal_result(self._step, result)
        self._results[call.call_id] = result
        self._ports.tool_finished(call, result, replayed=False, seconds=seconds)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
