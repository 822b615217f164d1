"""An answer in tokens is the answer, cut where the request says."""

from hypothesis import given
from hypothesis import strategies as st

from troupe.llm_sim.completion import Completion, FinishReason, complete
from troupe.llm_sim.rules import Answer, Call

CALLS = st.lists(st.builds(Call, st.uuids().map(str), st.just("f"), st.text()), max_size=3).map(tuple)
ANSWERS = st.builds(Answer, st.text(), CALLS)


@given(ANSWERS)
def test_without_a_limit_it_is_the_whole_answer(answer: Answer) -> None:
    completion = complete(answer, None, [])

    assert completion.text == answer.text
    assert tuple(completion.calls) == answer.calls
    assert completion.finish_reason is (FinishReason.TOOL_CALLS if answer.calls else FinishReason.STOP)


@given(ANSWERS, st.integers(1, 20))
def test_a_limit_cuts_to_so_many_tokens_and_says_so(answer: Answer, limit: int) -> None:
    whole = complete(answer, None, [])

    cut = complete(answer, limit, [])

    assert cut.pieces == whole.pieces[:limit]
    assert (cut.finish_reason is FinishReason.LENGTH) == (len(whole.pieces) > limit)


@given(st.text(), st.lists(st.text(max_size=3), max_size=4))
def test_a_stop_ends_the_text_before_its_first_place(text: str, stops: list[str]) -> None:
    completion = complete(Answer(text), None, stops)

    assert text.startswith(completion.text)
    assert not any(stop and stop in completion.text for stop in stops)
    rest = text[len(completion.text) :]
    assert rest == "" or any(stop and rest.startswith(stop) for stop in stops)
    assert completion.finish_reason is FinishReason.STOP


def test_a_call_costs_a_token_to_open_and_those_of_its_arguments() -> None:
    completion = complete(Answer(calls=(Call("c", "f", '{"a":1}'),)), None, [])

    assert len(completion.pieces) == 1 + len(["{", '"', "a", '"', ":", "1", "}"])


def test_nothing_is_nothing() -> None:
    assert complete(Answer(), 5, []) == Completion((), FinishReason.STOP)
