"""The rules make a conversation that makes sense."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.llm_sim.protocol import decode
from troupe.llm_sim.rules import Answer, reply
from troupe.llm_sim.tokens import tokenize

Json = dict[str, Any]


def tool(name: str, description: str = "", **properties: str) -> Json:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


CALCULATOR = tool("calculator", expression="string")
WEATHER = tool("weather", city="string", days="integer")


def ask(*messages: str | Json, **fields: Any) -> Answer:
    said = [{"role": "user", "content": message} if isinstance(message, str) else message for message in messages]
    return reply(decode(json.dumps({"model": "sim", "messages": said} | fields).encode()), Random(1))


def called(*calls: tuple[str, Json]) -> Json:
    made = [
        {"id": f"c{place}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for place, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def results(*contents: str) -> list[Json]:
    return [{"role": "tool", "tool_call_id": f"c{place}", "content": content} for place, content in enumerate(contents)]


def made(answer: Answer) -> list[tuple[str, Any]]:
    assert not answer.text
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


class TestCalculator:
    def test_arithmetic_goes_to_it(self) -> None:
        answer = ask("What is 123456789 times 987654321?", tools=[WEATHER, CALCULATOR])

        assert made(answer) == [("calculator", {"expression": "123456789 * 987654321"})]

    def test_it_is_known_by_its_description_and_filled_by_its_schema(self) -> None:
        offered = tool("maths", "Evaluates arithmetic.", digits="integer", formula="string")

        assert made(ask("12 times 7", tools=[offered])) == [("maths", {"digits": 12, "formula": "12 * 7"})]

    def test_a_calculator_that_takes_no_string_is_none(self) -> None:
        answer = ask("12 times 7", tools=[tool("calculator", a="integer", b="integer")])

        assert answer == Answer("I have no calculator, so I cannot compute 12 * 7.")

    def test_several_expressions_are_several_calls_each_with_an_id_of_its_own(self) -> None:
        answer = ask("2+2, 3*3 and 2+2", tools=[CALCULATOR])

        assert [arguments["expression"] for _, arguments in made(answer)] == ["2 + 2", "3 * 3"]
        assert len({call.id for call in answer.calls}) == 2

    def test_without_parallel_calls_one_follows_the_other(self) -> None:
        alone: Json = {"tools": [CALCULATOR], "parallel_tool_calls": False}
        first = ("calculator", {"expression": "2 + 2"})

        assert made(ask("2+2 and 3*3", **alone)) == [first]
        assert made(ask("2+2 and 3*3", called(first), *results("4"), **alone)) == [
            ("calculator", {"expression": "3 * 3"})
        ]

    def test_when_all_results_are_there_they_are_told(self) -> None:
        calls = called(("calculator", {"expression": "2 + 2"}), ("calculator", {"expression": "3 * 3"}))

        answer = ask("2+2 and 3*3", calls, *results("4", '{"result": 9}'), tools=[CALCULATOR])

        assert answer == Answer("2 + 2 = 4. 3 * 3 = 9.")

    @pytest.mark.parametrize(
        "result",
        [
            "Error: division by zero",
            "TOOL_FAILED: ZeroDivisionError: division by zero",
            '{"error": "division by zero"}',
            '{"error": {"message": "division by zero."}}',
        ],
    )
    def test_a_failure_is_told_as_one(self, result: str) -> None:
        answer = ask("1/0", called(("calculator", {"expression": "1 / 0"})), *results(result), tools=[CALCULATOR])

        assert answer == Answer("I could not compute 1 / 0: division by zero.")

    def test_the_next_question_is_computed_anew(self) -> None:
        before: list[str | Json] = ["2+2", called(("calculator", {"expression": "2 + 2"})), *results("4")]
        told: Json = {"role": "assistant", "content": "2 + 2 = 4."}

        assert made(ask(*before, told, "2+2", tools=[CALCULATOR])) == [("calculator", {"expression": "2 + 2"})]

    def test_without_one_nothing_is_computed(self) -> None:
        assert ask("12 times 7") == Answer("I have no calculator, so I cannot compute 12 * 7.")


class TestToolChoice:
    def test_none_makes_no_call(self) -> None:
        answer = ask("12 times 7", tools=[CALCULATOR], tool_choice="none")

        assert answer == Answer("I may not use tools here, so I cannot compute 12 * 7.")

    def test_required_makes_one_whatever_was_said(self) -> None:
        answer = ask("Hello for 3 days", tools=[WEATHER, CALCULATOR], tool_choice="required")

        assert made(answer) == [("weather", {"city": "Hello for 3 days", "days": 3})]

    def test_a_tool_by_name_is_the_one_that_is_called(self) -> None:
        choice = {"type": "function", "function": {"name": "calculator"}}

        answer = ask("12 times 7", tools=[WEATHER, CALCULATOR], tool_choice=choice)

        assert made(answer) == [("calculator", {"expression": "12 * 7"})]


class TestNamedTools:
    def test_the_arguments_are_those_that_were_given(self) -> None:
        answer = ask('Use the tool weather with {"city": "Oslo"} please', tools=[CALCULATOR, WEATHER])

        assert made(answer) == [("weather", {"city": "Oslo"})]

    def test_arguments_that_were_not_given_are_made_up(self) -> None:
        assert made(ask("call weather for 3", tools=[WEATHER])) == [
            ("weather", {"city": "call weather for 3", "days": 3})
        ]

    def test_a_calculator_gets_the_arithmetic(self) -> None:
        answer = ask("use the calculator to add 3 and 4", tools=[CALCULATOR])

        assert made(answer) == [("calculator", {"expression": "3 + 4"})]

    def test_the_result_is_told(self) -> None:
        answer = ask("use weather", called(("weather", {"city": "use weather", "days": 1})), *results("sunny."))

        assert answer == Answer("The tool weather answered: sunny.")

    def test_a_tool_that_is_not_offered_is_not_called(self) -> None:
        assert ask("use the tool weather", tools=[CALCULATOR]).calls == ()


class TestCounting:
    @given(st.integers(1, 300))
    def test_count_to_a_number_is_so_many_tokens(self, number: int) -> None:
        text = ask(f"Please count to {number}.").text

        assert text.split() == [str(each) for each in range(1, number + 1)]
        assert len(tokenize(text)) == number

    @given(st.integers(0, 300))
    def test_say_so_many_words_is_so_many_tokens(self, number: int) -> None:
        assert len(tokenize(ask(f"say {number} words").text)) == number

    def test_it_has_an_end(self) -> None:
        assert ask("count to 999999999") == Answer("I go no further than 100000 tokens.")

    def test_it_comes_after_the_tools_that_were_asked_for(self) -> None:
        question = 'use weather with {"city": "Oslo"} and say 3 words'

        assert ask(question, tools=[WEATHER]).calls
        after = ask(question, called(("weather", {"city": "Oslo"})), *results("sunny"), tools=[WEATHER])
        assert len(after.text.split()) == 3


class TestMemory:
    @pytest.mark.parametrize("question", ["What is my name?", "what's my name", "Who am I?"])
    def test_the_name_that_was_told_last(self, question: str) -> None:
        said = ("My name is Bob.", "I forgot: my name is Ada Lovelace and I count", "Hm", question)

        assert ask(*said) == Answer("Your name is Ada Lovelace.")

    def test_a_name_that_was_not_told(self) -> None:
        assert ask("What is my name?") == Answer("You have not told me your name.")

    def test_an_introduction(self) -> None:
        assert ask("Hi, my name is Ada") == Answer("Nice to meet you, Ada.")

    def test_what_was_said_first_and_before(self) -> None:
        assert ask("one", "two", "What did I say first?") == Answer('You said first: "one"')
        assert ask("one", "two", "what did I say before?") == Answer('You said before: "two"')
        assert ask("What did I say first?") == Answer("You have said nothing before this.")


class TestEcho:
    def test_anything_else_comes_back_short(self) -> None:
        assert ask("hello there") == Answer("You said: hello there")
        assert ask("a " * 50) == Answer("You said: " + "a " * 12 + "…")

    def test_a_conversation_without_a_user(self) -> None:
        assert ask({"role": "system", "content": "Be good."}) == Answer("I am listening.")

    def test_the_parts_of_a_content_are_one_text(self) -> None:
        parts = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "data:,"}}]

        assert ask({"role": "user", "content": parts}) == Answer("You said: hello")


class TestScript:
    def test_the_text_word_for_word(self) -> None:
        assert ask("12 * 7", sim={"text": "no"}, tools=[CALCULATOR]) == Answer("no")

    @given(st.integers(0, 300))
    def test_so_many_tokens(self, tokens: int) -> None:
        assert len(tokenize(ask("hello", sim={"tokens": tokens}).text)) == tokens

    def test_calls_are_made_once_then_the_words_follow(self) -> None:
        script = {"tool_calls": [{"name": "look_up", "arguments": {"key": 7}}], "text": "done"}

        first = ask("go", sim=script)
        then = ask("go", called(("look_up", {"key": 7})), *results("found"), sim=script)

        assert [(call.name, call.arguments) for call in first.calls] == [("look_up", '{"key":7}')]
        assert then == Answer("done")

    def test_arguments_can_be_no_json(self) -> None:
        assert ask("go", sim={"tool_calls": [{"name": "f", "arguments": "{no"}]}).calls[0].arguments == "{no"


@given(st.text(), st.integers())
def test_the_same_request_and_seed_get_the_same_answer(said: str, seed: int) -> None:
    request = decode(json.dumps({"model": "sim", "messages": [{"role": "user", "content": said}]}).encode())

    assert reply(request, Random(seed)) == reply(request, Random(seed))
