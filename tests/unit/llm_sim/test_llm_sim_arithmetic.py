"""Arithmetic is found in what people write, and means what they meant."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.llm_sim.arithmetic import expressions, numerals


@pytest.mark.parametrize(
    ("said", "computed"),
    [
        ("what is 123456789 * 987654321?", ["123456789 * 987654321"]),
        ("What's the product of 123456789 and 987654321?", ["123456789 * 987654321"]),
        ("multiply 12 by 7", ["12 * 7"]),
        ("12 times 7 plus 3", ["12 * 7 + 3"]),
        ("product of 12 and 7 plus 3", ["12 * 7 + 3"]),
        ("how much is (1+2)*3", ["(1 + 2) * 3"]),
        ("twelve times (7 plus three)", ["12 * (7 + 3)"]),
        ("two hundred and forty-five thousand times two", ["245000 * 2"]),
        ("subtract 3 from 10", ["10 - 3"]),
        ("subtract 2 + 3 from 4 * 5", ["4 * 5 - (2 + 3)"]),
        ("add 1, 2 and 3", ["1 + 2 + 3"]),
        ("add 2 and 3, then multiply by 4", ["(2 + 3) * 4"]),
        ("multiply 12 by 7 and then add 3", ["12 * 7 + 3"]),
        ("divide 10 by 4", ["10 / 4"]),
        ("the difference between 10 and 4", ["10 - 4"]),
        ("sum of 2*3 and 4*5", ["2 * 3 + 4 * 5"]),
        ("15% of 200", ["15 / 100 * 200"]),
        ("17 mod 5", ["17 % 5"]),
        ("7 // 2", ["7 // 2"]),
        ("2 to the power of 10", ["2 ** 10"]),
        ("2^10", ["2 ** 10"]),
        ("12 squared", ["12 ** 2"]),
        ("3 × 4 ÷ 2", ["3 * 4 / 2"]),  # noqa: RUF001
        ("3x4 or 3 x 4", ["3 * 4", "3 * 4"]),
        ("1,000 * 3", ["1000 * 3"]),
        ("1.5e3*2", ["1.5e3 * 2"]),
        ("007 + 0.50 + 0", ["7 + 0.50 + 0"]),
        ("7 - (3 - 2)", ["7 - (3 - 2)"]),
        ("(2**3)**4", ["(2 ** 3) ** 4"]),
        ("-5 + 3", ["-5 + 3"]),
        ("2 - -3", ["2 - -3"]),
        ("is it 3 + 4 = 7?", ["3 + 4"]),
        ("What is 12*7, 3+4 and 5-6?", ["12 * 7", "3 + 4", "5 - 6"]),
        ("1. 2+2\n2. 3*3", ["2 + 2", "3 * 3"]),
    ],
)
def test_arithmetic_is_put_into_a_calculators_notation(said: str, computed: list[str]) -> None:
    assert expressions(said) == computed


@pytest.mark.parametrize(
    "said",
    [
        "",
        "7",
        "(3)",
        "5 and 6",
        "say 5 words",
        "on 2024-01-15 at 10:30 - 11:00",
        "call 555-123-4567",
        "version 1.2.3 or 1.2.3-4",
        "see https://example.org/1-2+3",
        "id 550e8400-e29b-4123-8456-446655440000",
        "- 3 apples\n- 4 pears",
        "the 3rd - 4th",
        "covid-19 - 3",
        "sqrt(16) + 2",
        "0xff + 1",
        "x + 3",
        "divide the bill of 100 by 4",
    ],
)
def test_what_only_looks_like_arithmetic_is_left_alone(said: str) -> None:
    assert expressions(said) == []


@dataclass(frozen=True)
class Spoken:
    """A sum in words, and its value as the speaker means it."""

    text: str
    value: int


def _combined(word: str, combine: Callable[[int, int], int]) -> Callable[[Spoken, Spoken], Spoken]:
    return lambda left, right: Spoken(f"({left.text}) {word} ({right.text})", combine(left.value, right.value))


def _spoken() -> st.SearchStrategy[Spoken]:
    numbers = st.integers(0, 10**12).map(lambda number: Spoken(str(number), number))
    operators = st.sampled_from(
        [
            *(_combined(word, lambda a, b: a + b) for word in ("+", "plus")),
            *(_combined(word, lambda a, b: a - b) for word in ("-", "minus")),
            *(_combined(word, lambda a, b: a * b) for word in ("*", "times", "multiplied by", "x")),
        ]
    )
    return st.recursive(
        numbers,
        lambda parts: st.builds(lambda combined, left, right: combined(left, right), operators, parts, parts),
        max_leaves=12,
    )


@given(_spoken())
def test_an_expression_has_the_value_of_what_was_said(spoken: Spoken) -> None:
    found = expressions(f"Please, what is {spoken.text}?")

    if spoken.text.isdigit():
        assert found == []
    else:
        assert [eval(expression) for expression in found] == [spoken.value]


@given(_spoken())
def test_reading_an_expression_again_changes_nothing(spoken: Spoken) -> None:
    found = expressions(spoken.text)

    assert [again for expression in found for again in expressions(expression)] == found


@given(st.text(st.sampled_from("0123456789 +-*/().,%^x and times product of")))
def test_whatever_is_found_can_be_computed(said: str) -> None:
    for expression in expressions(said):
        compile(expression, "expression", "eval")


@given(st.text())
def test_no_text_is_too_strange(said: str) -> None:
    assert isinstance(expressions(said), list)


@pytest.mark.parametrize(
    "said", ["(" * 5_000, "1+" * 5_000, "-" * 5_000 + "1", "add " * 2_000, "2**" * 2_000, "one hundred " * 2_000]
)
def test_no_text_takes_long(said: str) -> None:
    started = time.process_time()

    expressions(said)

    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("zero", 0),
        ("nineteen", 19),
        ("forty-two", 42),
        ("three hundred and five", 305),
        ("one million two hundred thousand and one", 1_200_001),
        ("two billion", 2_000_000_000),
    ],
)
def test_numbers_in_words(words: str, value: int) -> None:
    assert numerals.value(words) == value
    assert expressions(f"{words.capitalize()} plus 1") == [f"{value} + 1"]
