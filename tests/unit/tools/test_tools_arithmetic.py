"""The calculator."""

import ast
import operator
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.dataplane.tools.arithmetic import MAX_DIGITS, MAX_LENGTH, calculator, evaluate
from troupe.dataplane.tools.executor import InProcessExecutor, ToolOutcome


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("123456789 * 987654321", "121932631112635269"),
        ("  (12.5 + 3) * 2**10 ", "15872"),
        ("0.1 + 0.2", "0.3"),
        ("1/8", "0.125"),
        ("-1/8", "-0.125"),
        ("1e3", "1000"),
        ("1.5E-3", "0.0015"),
        ("1_000_000.5", "1000000.5"),
        ("7 // 2", "3"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("7.5 % 2", "1.5"),
        ("-2**2", "-4"),
        ("2**-2", "0.25"),
        ("0**0", "1"),
        ("(-1)**(10**30)", "1"),
        ("1/3", "1/3 (about 0.33333333333333333333)"),
        ("10/4", "2.5"),
        ("6/3", "2"),
        ("--+-1", "-1"),
        ("-" * 900 + "1", "1"),
        ("+".join(["1"] * 500), "500"),
        ("(1\n+1.5)", "2.5"),
        ("9" * MAX_LENGTH, "9" * MAX_LENGTH),
        (f"10**{MAX_DIGITS - 1}", "1" + "0" * (MAX_DIGITS - 1)),
        (f"2**-{MAX_DIGITS}", "0." + str(5**MAX_DIGITS).rjust(MAX_DIGITS, "0")),
    ],
)
def test_values(expression: str, value: str) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "is not an arithmetic expression"),
        ("1 +", "is not an arithmetic expression"),
        ("1 2", "is not an arithmetic expression"),
        ("()", "more than arithmetic"),
        ("1(2)", "more than arithmetic"),
        ("1 if 1 else 2", "'i' is not arithmetic"),
        ("x + 1", "'x' is not arithmetic"),
        ("__import__('os')", "is not arithmetic"),
        ("[1]*10**9", "is not arithmetic"),
        ("2^10", r"'\^' is not a power; write \*\*"),
        ("1,000", "without thousands separators"),
        ("2\u00d73", r"Write \* for multiplication"),
        ("...", "holds something that is no number"),
        ("1/0", "Division by zero"),
        ("1//0", "Division by zero"),
        ("1%(1-1)", "Division by zero"),
        ("0**-1", "Division by zero"),
        ("2**0.5", "Exponents are whole numbers"),
        ("9**9**9**9", f"The power has more than {MAX_DIGITS} digits"),
        ("(1/9)**9999", f"The power has more than {MAX_DIGITS} digits"),
        ("10**1999*10", f"more than {MAX_DIGITS} digits"),
        ("1e2000", f"more than {MAX_DIGITS} digits"),
        ("1e-999999999", f"more than {MAX_DIGITS} digits"),
        ("(" * 400 + "1" + ")" * 400, "is not an arithmetic expression"),
        ("1+" * MAX_LENGTH + "1", f"the limit is {MAX_LENGTH}"),
    ],
)
def test_what_it_does_not_compute(expression: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        evaluate(expression)


numbers = st.integers(0, 10**12).map(str)
wholes = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(" ".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
        st.tuples(inner, st.integers(0, 6)).map(lambda pair: f"({pair[0]})**{pair[1]}"),
    ),
    max_leaves=8,
)


@given(wholes)
def test_it_agrees_with_python_on_whole_numbers(expression: str) -> None:
    try:
        expected = str(eval(compile(ast.parse(expression, mode="eval"), "", "eval"), {}))
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="Division by zero"):
            evaluate(expression)
    else:
        if len(expected) < MAX_DIGITS / 8 and len(expression) < MAX_LENGTH:
            assert evaluate(expression) == expected


decimals = st.decimals(-(10**6), 10**6, places=4).map(str)


@given(decimals, st.sampled_from(["+", "-", "*", "/"]), decimals)
def test_decimals_are_exact(left: str, sign: str, right: str) -> None:
    compute = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[sign]
    if sign == "/" and Fraction(right) == 0:
        return
    shown = evaluate(f"({left}) {sign} ({right})")
    assert Fraction(shown.partition(" ")[0]) == compute(Fraction(left), Fraction(right))


@given(st.text(alphabet="0123456789eE._+-*/%() \n", max_size=60) | st.text(max_size=20))
def test_it_raises_nothing_but_value_errors(expression: str) -> None:
    with suppress(ValueError):
        assert evaluate(expression)


async def test_it_is_a_tool() -> None:
    assert (calculator.name, calculator.idempotent) == ("calculator", True)
    run = InProcessExecutor()
    assert await run.call(calculator, '{"expression": "6*7"}') == ToolOutcome("42")
    failed = await run.call(calculator, '{"expression": "1/0"}')
    assert failed.content == "TOOL_FAILED: ValueError: Division by zero has no value."
