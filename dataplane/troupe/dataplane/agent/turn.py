"""One attempt at a turn: carries out what the kernel decides, and journals what must not happen twice.

An answer of the model with tool calls is journaled before anything acts on it, in one write with the starts of the
calls that begin at once; a tool's result while the model is asked what follows from it, and before that is acted on or
shown. The last answer is not: the commit stores it. An attempt that finds a journal goes the same way as the one that
wrote it, with what is written there in place of calls.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn, assert_never

from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.dataplane.agent import kernel
from troupe.dataplane.agent.calls import AnswerCalls
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import Entry, ModelAnswer, Usage, UserMessage
from troupe.dataplane.agent.kernel import CallModel, CallTools, Fail, Reply, TurnState
from troupe.dataplane.agent.ports import TurnPorts
from troupe.dataplane.agent.prompt import Window
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.tools.errors import NonDeterministic
from troupe.dataplane.tools.executor import ToolExecutor

__all__ = ["TurnPorts", "TurnResult", "run_turn"]


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
    async with _finishing() as tasks:
        prompt, acted = _Prompt(history, config, session), None
        state, decision = kernel.decide(TurnState(), kernel.TurnStarted(message), config)
        while True:
            match decision:
                case CallModel(step):
                    answer, replayed = await _answer(ports, prompt, state, step)
                    if acted is not None:
                        await acted.kept()
                    state, decision = kernel.decide(state, kernel.ModelAnswered(answer), config)
                    if replayed:
                        _check_replay(step, answer, decision)
                case CallTools(step, calls):
                    asked = ModelAnswer(answer.text, calls, answer.finish_reason, answer.usage)
                    acted = AnswerCalls(step, asked, message.message_id, config, ports, executor, tasks)
                    results = await acted.run(replayed)
                    state, decision = kernel.decide(state, kernel.ToolsFinished(results), config)
                case Reply(text):
                    return TurnResult(text, state.entries, state.usage)
                case Fail() as failed:
                    _raise(failed, config)
                case _:
                    assert_never(decision)


@asynccontextmanager
async def _finishing() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose tasks come to their ends also where its block raises: what tools came to is written. The
    first of them that fails stops the others and the block, and is what is raised."""
    failed: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            try:
                yield tasks
            except Exception as error:
                failed = error
    except BaseExceptionGroup as group:
        raise _first(group) from None
    if failed is not None:
        raise failed


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _answer(ports: TurnPorts, prompt: "_Prompt", state: TurnState, step: int) -> tuple[ModelAnswer, bool]:
    """The model's answer, and whether it comes from the journal."""
    journaled = ports.journaled_answer(step)
    if journaled is not None:
        return journaled, True
    return await ports.complete(prompt.request(state.entries), step), False


def _check_replay(step: int, answer: ModelAnswer, decision: kernel.Decision) -> None:
    """Only answers that led to calls are journaled, under the ids that the kernel gave these calls."""
    if not isinstance(decision, CallTools):
        raise NonDeterministic(f"step {step}: its answer led to calls and now to {type(decision).__name__}")
    if decision.calls != answer.tool_calls:
        raise NonDeterministic(f"step {step}: its answer now leads to other calls")


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
