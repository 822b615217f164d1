"""The kernel's decisions."""

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import answers

from troupe.chassis.errors import Internal
from troupe.dataplane.agent.conversation import AssistantMessage, ModelAnswer, TokenUsage, Usage, UserMessage
from troupe.dataplane.agent.kernel import (
    MAX_CALL_ID,
    CallModel,
    CallTools,
    Decision,
    Fail,
    ModelAnswered,
    Phase,
    Reply,
    ToolsFinished,
    TurnEvent,
    TurnStarted,
    TurnState,
    decide,
)
from troupe.dataplane.tools.call import ToolCall, ToolMessage, call_digest


@dataclass(frozen=True)
class Limits:
    max_steps: int = 16
    max_repeated_calls: int = 3


QUESTION = UserMessage("What is 6 * 7?", "m1")
CALL = ToolCall("c1", "calculator", '{"expression": "6 * 7"}')


def asking(*calls: ToolCall, text: str = "", finish_reason: str = "tool_calls") -> ModelAnswered:
    return ModelAnswered(ModelAnswer(text, calls, finish_reason))


def saying(text: str, finish_reason: str = "stop") -> ModelAnswered:
    return ModelAnswered(ModelAnswer(text, (), finish_reason))


def results_of(decision: Decision) -> ToolsFinished:
    assert isinstance(decision, CallTools)
    return ToolsFinished(tuple(ToolMessage(call.call_id, call.tool, "42", "m1") for call in decision.calls))


def started(limits: Limits = Limits()) -> TurnState:
    state, decision = decide(TurnState(), TurnStarted(QUESTION), limits)
    assert decision == CallModel(step=0)
    return state


def answered(event: ModelAnswered, limits: Limits = Limits()) -> Decision:
    return decide(started(limits), event, limits)[1]


def test_a_question_a_call_and_an_answer() -> None:
    state, decision = decide(started(), asking(CALL, text="Let me see."), Limits())
    assert decision == CallTools(step=0, calls=(CALL,))

    state, decision = decide(state, results_of(decision), Limits())
    assert decision == CallModel(step=1)

    state, decision = decide(state, saying("It is 42."), Limits())
    assert decision == Reply("It is 42.")
    assert state.phase is Phase.ENDED
    assert state.entries == (
        QUESTION,
        AssistantMessage("Let me see.", "m1", (CALL,)),
        ToolMessage("c1", "calculator", "42", "m1"),
        AssistantMessage("It is 42.", "m1"),
    )


def test_usage_adds_up_over_the_model_calls() -> None:
    first = ModelAnswer("", (CALL,), "tool_calls", TokenUsage(10, 5, 2))
    state, decision = decide(started(), ModelAnswered(first), Limits())
    state, _ = decide(state, results_of(decision), Limits())
    state, _ = decide(state, ModelAnswered(ModelAnswer("42", usage=TokenUsage(20, 3, 16))), Limits())
    assert state.usage == Usage(
        prompt_tokens=30, completion_tokens=8, cached_prompt_tokens=18, model_calls=2, tool_calls=1
    )


def test_results_may_come_in_any_order_and_stand_in_the_order_of_the_calls() -> None:
    other = ToolCall("c2", "weather", "{}")
    state, decision = decide(started(), asking(CALL, other), Limits())
    state, _ = decide(state, ToolsFinished(results_of(decision).results[::-1]), Limits())
    assert [entry.call_id for entry in state.entries if isinstance(entry, ToolMessage)] == ["c1", "c2"]


def test_calls_are_carried_out_whatever_the_finish_reason_says() -> None:
    assert isinstance(answered(asking(CALL, finish_reason="stop")), CallTools)


def test_the_last_model_call_may_not_ask_for_tools() -> None:
    limits = Limits(max_steps=2)
    state, decision = decide(started(limits), asking(CALL), limits)
    state, _ = decide(state, results_of(decision), limits)
    state, decision = decide(state, asking(CALL), limits)
    assert isinstance(decision, Fail)
    assert (decision.reason, decision.retryable) == ("MAX_STEPS", False)
    assert state.phase is Phase.ENDED


def test_the_same_call_is_refused_when_it_repeats_too_often() -> None:
    limits = Limits(max_repeated_calls=2)
    state = started(limits)
    for arguments in ('{"a": 1, "b": 2}', '{"b":2,"a":1}'):
        state, decision = decide(state, asking(ToolCall("", "calculator", arguments)), limits)
        state, _ = decide(state, results_of(decision), limits)
    _, decision = decide(state, asking(ToolCall("", "calculator", '{ "a": 1, "b": 2 }')), limits)
    assert isinstance(decision, Fail)
    assert decision.reason == "REPEATED_CALL"


def test_other_arguments_are_another_call() -> None:
    limits = Limits(max_repeated_calls=1)
    assert isinstance(answered(asking(CALL, ToolCall("c2", "calculator", "{}")), limits), CallTools)
    assert isinstance(answered(asking(CALL, CALL), limits), Fail)


def test_whole_numbers_of_any_size_are_told_apart() -> None:
    near = [ToolCall("", "t", f'{{"x": {10**30 + difference}}}') for difference in (0, 1)]
    assert call_digest(near[0]) != call_digest(near[1])


@pytest.mark.parametrize(
    ("event", "reason", "retryable"),
    [
        (saying(""), "EMPTY_ANSWER", True),
        (saying(" \n"), "EMPTY_ANSWER", True),
        (saying("", "length"), "OUTPUT_LIMIT", False),
        (asking(CALL, finish_reason="length"), "OUTPUT_LIMIT", False),
        (saying("I will not", "content_filter"), "CONTENT_FILTERED", False),
    ],
)
def test_answers_that_are_none(event: ModelAnswered, reason: str, retryable: bool) -> None:
    decision = answered(event)
    assert isinstance(decision, Fail)
    assert (decision.reason, decision.retryable) == (reason, retryable)


def test_a_text_cut_at_its_token_limit_is_an_answer() -> None:
    assert answered(saying("Once upon a", "length")) == Reply("Once upon a")


def test_missing_long_and_repeated_call_ids_are_replaced() -> None:
    odd = [ToolCall(call_id, "t", "{}") for call_id in ("", "a", "a", "x" * (MAX_CALL_ID + 1), "call-0-0")]
    decision = answered(asking(*odd), Limits(max_repeated_calls=9))
    assert isinstance(decision, CallTools)
    assert [call.call_id for call in decision.calls] == ["call-0-0", "a", "call-0-2", "call-0-3", "call-0-4"]


def test_a_server_that_numbers_calls_anew_in_each_answer() -> None:
    state, decision = decide(started(), asking(CALL), Limits())
    state, _ = decide(state, results_of(decision), Limits())
    _, decision = decide(state, asking(CALL), Limits())
    assert isinstance(decision, CallTools)
    assert [call.call_id for call in decision.calls] == ["call-1-0"]


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (TurnState(), saying("too early")),
        (TurnState(phase=Phase.CALLING_MODEL, entries=(QUESTION,)), TurnStarted(QUESTION)),
        (TurnState(phase=Phase.ENDED, entries=(QUESTION,)), saying("too late")),
        (TurnState(phase=Phase.CALLING_TOOLS, entries=(QUESTION,), pending=(CALL,)), ToolsFinished(())),
        (
            TurnState(phase=Phase.CALLING_TOOLS, entries=(QUESTION,), pending=(CALL,)),
            ToolsFinished((ToolMessage("c1", "t", "", "m1"), ToolMessage("c2", "t", "", "m1"))),
        ),
        (
            TurnState(phase=Phase.CALLING_TOOLS, entries=(QUESTION,), pending=(CALL,)),
            ToolsFinished((ToolMessage("c1", "t", "", "m1"), ToolMessage("c1", "t", "", "m1"))),
        ),
    ],
)
def test_an_event_that_cannot_follow_is_a_defect(state: TurnState, event: TurnEvent) -> None:
    with pytest.raises(Internal, match=r"cannot take|are not those"):
        decide(state, event, Limits())


def played(answers_: list[ModelAnswer], limits: Limits) -> tuple[list[TurnEvent], list[Decision], list[TurnState]]:
    """A turn against a model that gives these answers, until it ends or has no more."""
    events: list[TurnEvent] = [TurnStarted(QUESTION)]
    decisions: list[Decision] = []
    states = [TurnState()]
    answers_ = answers_[::-1]
    while True:
        state, decision = decide(states[-1], events[-1], limits)
        states.append(state)
        decisions.append(decision)
        match decision:
            case CallModel() if answers_:
                events.append(ModelAnswered(answers_.pop()))
            case CallTools():
                events.append(results_of(decision))
            case _:
                return events, decisions, states


limits_ = st.builds(Limits, max_steps=st.integers(1, 5), max_repeated_calls=st.integers(1, 4))


@given(st.lists(answers, max_size=8), limits_)
def test_recorded_events_replay_to_the_same_decisions(given_answers: list[ModelAnswer], limits: Limits) -> None:
    events, decisions, states = played(given_answers, limits)

    stored = msgspec.json.encode(events)
    state, replayed = TurnState(), []
    for event in msgspec.json.decode(stored, type=list[TurnEventRecord]):
        state, decision = decide(state, event.event(), limits)
        replayed.append(decision)

    assert replayed == decisions
    assert state == states[-1]


class TurnEventRecord(msgspec.Struct):
    """Any of the three events: their fields are disjoint."""

    message: UserMessage | None = None
    answer: ModelAnswer | None = None
    results: tuple[ToolMessage, ...] | None = None

    def event(self) -> TurnEvent:
        if self.message is not None:
            return TurnStarted(self.message)
        if self.answer is not None:
            return ModelAnswered(self.answer)
        return ToolsFinished(self.results or ())


@given(st.lists(answers, max_size=8), limits_)
def test_a_turn_takes_no_more_steps_than_allowed(given_answers: list[ModelAnswer], limits: Limits) -> None:
    _, decisions, _ = played(given_answers, limits)
    assert sum(isinstance(decision, CallModel) for decision in decisions) <= limits.max_steps
    steps = [decision.step for decision in decisions if isinstance(decision, CallModel)]
    assert steps == list(range(len(steps)))


@given(st.lists(answers, max_size=8), limits_)
def test_every_call_has_its_result_in_the_conversation(given_answers: list[ModelAnswer], limits: Limits) -> None:
    _, decisions, states = played(given_answers, limits)
    asked = [call.call_id for decision in decisions if isinstance(decision, CallTools) for call in decision.calls]
    assert len(asked) == len(set(asked))
    assert all(0 < len(call_id) <= MAX_CALL_ID for call_id in asked)

    open_calls: list[str] = []
    for entry in states[-1].entries:
        if isinstance(entry, ToolMessage):
            assert open_calls.pop(0) == entry.call_id
        else:
            assert not open_calls
            open_calls = [call.call_id for call in getattr(entry, "tool_calls", ())]
    assert not open_calls


@given(st.lists(answers, max_size=8), limits_)
def test_no_call_is_carried_out_more_often_than_allowed(given_answers: list[ModelAnswer], limits: Limits) -> None:
    _, decisions, _ = played(given_answers, limits)
    done = [call_digest(call) for decision in decisions if isinstance(decision, CallTools) for call in decision.calls]
    assert all(done.count(digest) <= limits.max_repeated_calls for digest in done)
