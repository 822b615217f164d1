"""The grammar of spoken and written arithmetic, and the expressions that a calculator understands.

    statement = sum (THEN power)*
    sum       = product (("+" | "-") product)*
    product   = unary (("*" | "/" | "//" | "%" | "% of") unary)*
    unary     = "-" unary | power
    power     = primary POSTFIX* ("**" unary)?
    primary   = NUMBER | "(" sum ")" | SERIES sum (LINK operand)+ | SUBTRACT sum LINK product

An operand of SERIES + and - is a product, of SERIES * and / a power: "sum of 1 and 2 times 3" is 1 + 2 * 3, "product of
12 and 7 plus 3" is 12 * 7 + 3. Each rule takes a place in the lexemes and returns what it read and the next place, or
None where the rule does not hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from troupe.llm_sim.arithmetic.lexemes import Kind, Lexeme, lexemes

_DEEPEST = 20
_LONGEST = 500
_SUM, _PRODUCT, _UNARY, _POWER, _ATOM = range(5)
_BINDING = {
    "+": _SUM,
    "-": _SUM,
    "*": _PRODUCT,
    "/": _PRODUCT,
    "//": _PRODUCT,
    "%": _PRODUCT,
    "% of": _PRODUCT,
    "**": _POWER,
}


def expressions(text: str) -> list[str]:
    """Every arithmetic expression in `text`, in order, in the notation of Python with no more parentheses than needed.

    "what is twelve times (7 plus 3)?" gives `12 * (7 + 3)`. A number alone is no expression. Dates, times, versions and
    ids are not taken for arithmetic. Nesting beyond 20 levels is not read, and 500 operators end an expression."""
    words = list(lexemes(text))
    found = []
    place = 0
    while place < len(words):
        match _statement(words, place):
            case _Term(operators=operators, text=printed), end if operators:
                found.append(printed)
                place = end
            case _:
                place += 1
    return found


@dataclass(frozen=True, slots=True)
class _Term:
    text: str
    binding: int
    operators: int


_Read = tuple[_Term, int] | None
_Rule = Callable[[Sequence[Lexeme], int, int], _Read]


def _statement(words: Sequence[Lexeme], place: int) -> _Read:
    read = _sum(words, place, 0)
    while read and (then := _at(words, read[1])).kind is Kind.THEN:
        right = _power(words, read[1] + 1, 0)
        if not right or read[0].operators >= _LONGEST:
            break
        read = _join(read[0], then.value, right[0]), right[1]
    return read


def _sum(words: Sequence[Lexeme], place: int, depth: int) -> _Read:
    return _chain(words, place, depth, _product, ("+", "-"))


def _product(words: Sequence[Lexeme], place: int, depth: int) -> _Read:
    return _chain(words, place, depth, _unary, ("*", "/", "//", "%", "% of"))


def _chain(words: Sequence[Lexeme], place: int, depth: int, operand: _Rule, operators: Sequence[str]) -> _Read:
    read = operand(words, place, depth)
    while read and (sign := _at(words, read[1])).kind is Kind.OPERATOR and sign.value in operators:
        right = operand(words, read[1] + 1, depth)
        if not right or read[0].operators >= _LONGEST:
            break
        read = _join(read[0], sign.value, right[0]), right[1]
    return read


def _unary(words: Sequence[Lexeme], place: int, depth: int) -> _Read:
    if depth > _DEEPEST:
        return None
    if _at(words, place) == Lexeme(Kind.OPERATOR, "-"):
        read = _unary(words, place + 1, depth + 1)
        return read and (_Term("-" + _within(read[0], _UNARY), _UNARY, read[0].operators), read[1])
    return _power(words, place, depth)


def _power(words: Sequence[Lexeme], place: int, depth: int) -> _Read:
    read = _primary(words, place, depth + 1)
    while read and (postfix := _at(words, read[1])).kind is Kind.POSTFIX:
        read = _join(read[0], "**", _Term(postfix.value, _ATOM, 0)), read[1] + 1
    if read and _at(words, read[1]) == Lexeme(Kind.OPERATOR, "**"):
        right = _unary(words, read[1] + 1, depth + 1)
        if right:
            return _join(read[0], "**", right[0]), right[1]
    return read


def _primary(words: Sequence[Lexeme], place: int, depth: int) -> _Read:
    first = _at(words, place)
    match first.kind:
        case Kind.NUMBER:
            return _Term(first.value, _ATOM, 0), place + 1
        case Kind.OPEN:
            inner = _sum(words, place + 1, depth)
            return (inner[0], inner[1] + 1) if inner and _at(words, inner[1]).kind is Kind.CLOSE else None
        case Kind.SERIES:
            return _series(words, place + 1, depth, first.value)
        case Kind.SUBTRACT:
            less = _sum(words, place + 1, depth)
            more = _product(words, less[1] + 1, depth) if less and _at(words, less[1]).kind is Kind.LINK else None
            return (_join(more[0], "-", less[0]), more[1]) if less and more else None
        case _:
            return None


def _series(words: Sequence[Lexeme], place: int, depth: int, operator: str) -> _Read:
    read = _sum(words, place, depth)
    operand = _product if _BINDING[operator] == _SUM else _power
    joined = False
    while read and _at(words, read[1]).kind is Kind.LINK:
        right = operand(words, read[1] + 1, depth)
        if not right or read[0].operators >= _LONGEST:
            break
        read = _join(read[0], operator, right[0]), right[1]
        joined = True
    return read if joined else None


def _join(left: _Term, operator: str, right: _Term) -> _Term:
    if operator == "% of":
        return _join(_join(left, "/", _Term("100", _ATOM, 0)), "*", right)
    binding = _BINDING[operator]
    first, second = (_POWER + 1, _UNARY) if binding == _POWER else (binding, binding + 1)
    text = f"{_within(left, first)} {operator} {_within(right, second)}"
    return _Term(text, binding, left.operators + right.operators + 1)


def _within(term: _Term, binding: int) -> str:
    return term.text if term.binding >= binding else f"({term.text})"


def _at(words: Sequence[Lexeme], place: int) -> Lexeme:
    return words[place] if place < len(words) else Lexeme(Kind.WORD)
