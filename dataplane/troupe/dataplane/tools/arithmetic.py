"""The calculator: exact arithmetic for models, which are bad at it."""

import ast
import operator
import re
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Annotated, Final

from msgspec import Meta

from troupe.dataplane.tools.tool import tool

MAX_LENGTH: Final = 1000
"""Characters of an expression."""
MAX_DIGITS: Final = 2000
"""Decimal digits of any number on the way, of a fraction's numerator and denominator each. The longest expression of
such numbers takes milliseconds."""
_LIMIT: Final = 10**MAX_DIGITS
_FOREIGN = re.compile(r"[^0-9eE._+\-*/%()\s]")
_ABOUT: Final = Context(prec=20)

Number = int | Fraction


@tool(idempotent=True, timeout=5)
async def calculator(
    expression: Annotated[
        str, Meta(description="numbers with + - * / // % ** and parentheses, for example (12.5 + 3) * 2**10")
    ],
) -> str:
    """Computes an arithmetic expression exactly: whole numbers of any size, decimals and fractions."""
    return evaluate(expression)


def evaluate(expression: str) -> str:
    """The exact value: `56`, `0.125`, or `1/3 (about 0.33333333333333333333)` where no decimal ends. `/` is exact,
    `//` and `%` round down as in Python, exponents are whole. Raises ValueError, a sentence, for anything else."""
    text = expression.strip()
    if len(text) > MAX_LENGTH:
        raise ValueError(f"The expression has {len(text)} characters, the limit is {MAX_LENGTH}.")
    foreign = _FOREIGN.search(text)
    if foreign:
        raise ValueError(_HINTS.get(foreign.group(), f"{foreign.group()!r} is not arithmetic.") + _USAGE)
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text[:80]!r} is not an arithmetic expression." + _USAGE) from error
    return _shown(_value(tree.body, text))


_USAGE: Final = " Use numbers with + - * / // % ** and parentheses."
_HINTS: Final = {
    "^": "'^' is not a power; write **.",
    ",": "Write numbers without thousands separators, with a point for decimals.",
    "\u00d7": "Write * for multiplication.",
    "\u00f7": "Write / for division.",
}


def _value(root: ast.expr, text: str) -> Number:
    """Post-order with a stack of its own, so that no expression is too deep for Python's."""
    todo: list[tuple[ast.expr, bool]] = [(root, False)]
    values: list[Number] = []
    while todo:
        node, operands_ready = todo.pop()
        match node:
            case ast.Constant():
                values.append(_bounded(_literal(node, text)))
            case ast.BinOp() if operands_ready:
                right, left = values.pop(), values.pop()
                values.append(_bounded(_binary(node.op, left, right)))
            case ast.BinOp():
                todo += [(node, True), (node.right, False), (node.left, False)]
            case ast.UnaryOp(op=ast.USub()) if operands_ready:
                values.append(-values.pop())
            case ast.UnaryOp(op=ast.UAdd()) if operands_ready:
                pass
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                todo += [(node, True), (node.operand, False)]
            case _:
                raise ValueError(f"{text[:80]!r} is more than arithmetic." + _USAGE)
    return values.pop()


def _literal(node: ast.Constant, text: str) -> Number:
    if isinstance(node.value, int) and not isinstance(node.value, bool):
        return node.value
    if not isinstance(node.value, float):
        raise ValueError(f"{text[:80]!r} holds something that is no number." + _USAGE)  # noqa: TRY004 - bad input
    # The float itself is rounded; the digits that were written are not.
    written = (ast.get_source_segment(text, node) or "").replace("_", "")
    mantissa, _, exponent = written.lower().partition("e")
    power = int(exponent or 0)
    if abs(power) > MAX_DIGITS:
        raise ValueError(f"{written[:80]} has more than {MAX_DIGITS} digits.")
    return Fraction(mantissa) * Fraction(10) ** power


def _binary(op: ast.operator, left: Number, right: Number) -> Number:
    if isinstance(op, ast.Pow):
        return _power(left, right)
    if isinstance(op, ast.Div | ast.FloorDiv | ast.Mod) and right == 0:
        raise ValueError("Division by zero has no value.")
    if isinstance(op, ast.Div):
        return Fraction(left) / right
    compute = _OPERATIONS.get(type(op))
    if compute is None:
        raise ValueError("That operator is not arithmetic." + _USAGE)
    return compute(left, right)


_OPERATIONS: Final[dict[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _power(base: Number, exponent: Number) -> Number:
    if exponent.denominator != 1:
        raise ValueError("Exponents are whole numbers; a root has no exact value.")
    if base == 0 and exponent < 0:
        raise ValueError("Division by zero has no value.")
    times = exponent.numerator
    bits = max(abs(base.numerator), base.denominator).bit_length() - 1  # the power has at least bits * times
    if bits * abs(times) > _LIMIT.bit_length():
        raise ValueError(f"The power has more than {MAX_DIGITS} digits.")
    return Fraction(base) ** times


def _bounded(value: Number) -> Number:
    """Whole numbers as int, and an error for what is too long."""
    if max(abs(value.numerator), value.denominator) >= _LIMIT:
        raise ValueError(f"A number on the way has more than {MAX_DIGITS} digits.")
    return value.numerator if value.denominator == 1 else value


def _shown(value: Number) -> str:
    places = _decimal_places(value.denominator)
    if places == 0:
        return str(value.numerator)
    if places is not None and places <= MAX_DIGITS:
        digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
        return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    about = _ABOUT.divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{value.numerator}/{value.denominator} (about {about})"


def _decimal_places(denominator: int) -> int | None:
    """How many decimal places an exact fraction takes; None when it never ends."""
    places = 0
    while denominator % 10 == 0:
        denominator, places = denominator // 10, places + 1
    for prime in (2, 5):
        extra = 0
        while denominator % prime == 0:
            denominator, extra = denominator // prime, extra + 1
        places += extra
    return places if denominator == 1 else None
