"""From a sentence to the words and signs that arithmetic is made of; everything else is a WORD that ends it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from troupe.llm_sim.arithmetic import numerals


class Kind(Enum):
    """What a lexeme is; `value` of the lexeme says which."""

    NUMBER = auto()  # digits, with a point at most
    OPERATOR = auto()  # + - * / // % ** and "% of"
    POSTFIX = auto()  # the exponent of "squared" and "cubed"
    OPEN = auto()
    CLOSE = auto()
    SERIES = auto()  # "product of", "add": an operator whose operands follow, joined by LINKs
    SUBTRACT = auto()  # "subtract A from B", the one command that names its operands backwards
    THEN = auto()  # "and then multiply by": an operator on all that was said before
    LINK = auto()  # "and", "by", "from", a comma
    WORD = auto()


@dataclass(frozen=True, slots=True)
class Lexeme:
    kind: Kind
    value: str = ""


_AND_THEN = r"(?:,\s*)?(?:and\s+then|and|then)\s+"
_IT = r"(?:\s+(?:it|that|this|the\s+result))?\s+by\b"

# The first pattern that matches wins, so that what only looks like arithmetic stands before arithmetic.
_TABLE: tuple[tuple[Kind, str, str], ...] = (
    (Kind.WORD, "", r"https?://\S+"),
    (Kind.WORD, "", r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"),
    (Kind.WORD, "", r"\b(?:\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{4}|\d{3}-\d{3}-\d{4}|\d{1,2}:\d{2}(?::\d{2})?)\b"),
    (Kind.WORD, "", r"\b\d+(?:\.\d+){2,}\b"),
    (Kind.WORD, "", r"^[ \t]*[-*•](?=\s)"),
    (Kind.THEN, "+", _AND_THEN + r"add\b"),
    (Kind.THEN, "-", _AND_THEN + r"subtract\b"),
    (Kind.THEN, "*", _AND_THEN + r"multiply" + _IT),
    (Kind.THEN, "/", _AND_THEN + r"divide" + _IT),
    (Kind.SERIES, "+", r"(?:sum|total)\s+of\b|add\b"),
    (Kind.SERIES, "*", r"product\s+of\b|multiply\b"),
    (Kind.SERIES, "-", r"difference\s+(?:of|between)\b"),
    (Kind.SERIES, "/", r"quotient\s+of\b|divide\b"),
    (Kind.SUBTRACT, "-", r"subtract\b"),
    (Kind.OPERATOR, "% of", r"(?:%|percent\b)\s*of\b"),
    (Kind.OPERATOR, "**", r"\*\*|\^|(?:raised\s+)?to\s+the\s+power\s+of\b"),
    (Kind.OPERATOR, "+", r"\+|plus\b"),
    (Kind.OPERATOR, "-", r"[-−–]|minus\b"),  # noqa: RUF001
    (Kind.OPERATOR, "*", r"[*×·]|times\b|multiplied\s+(?:by|with)\b|x(?=\s*[\d(])"),  # noqa: RUF001
    (Kind.OPERATOR, "//", r"//"),
    (Kind.OPERATOR, "/", r"[/÷]|divided\s+by\b"),
    (Kind.OPERATOR, "%", r"%|mod(?:ulo)?\b"),
    (Kind.POSTFIX, "2", r"squared\b"),
    (Kind.POSTFIX, "3", r"cubed\b"),
    (Kind.LINK, "", r",(?:\s*and\b)?|(?:and|by|with|from|to)\b"),
    (Kind.OPEN, "", r"\("),
    (Kind.CLOSE, "", r"\)"),
    (Kind.NUMBER, "words", numerals.PATTERN),
    (Kind.NUMBER, "digits", r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)|\d+(?=x\s*[\d(])|\.\d+(?!\w)"),
    (Kind.WORD, "", r"\w(?:[\w'-]*\w)?\(?|\S"),
)
# Most of most texts is words that begin like none in the table: a run of them is passed over in one match, ten times
# as fast as one by one.
_TELLING = sorted({word for _, _, pattern in _TABLE for word in re.findall(r"(?<!\\)[a-z]{2,}", pattern)} | {r"x\b"})
_PLAIN = rf"(?:\b(?!{'|'.join(_TELLING)})[^\W\d_]+(?![\w'(-])[ .]*)+"
_LEXEME = re.compile("|".join([_PLAIN, *(f"({pattern})" for _, _, pattern in _TABLE)]), re.IGNORECASE | re.MULTILINE)


_PASSED_OVER = (Kind.WORD, "", _PLAIN)


def lexemes(text: str) -> Iterator[Lexeme]:
    """All of `text` in order. Numbers have their value in plain digits, operators in a calculator's notation."""
    before = Kind.WORD
    for found in _LEXEME.finditer(text):
        kind, value, _ = _TABLE[found.lastindex - 1] if found.lastindex else _PASSED_OVER
        matched = found[0]
        if kind is Kind.NUMBER:
            value = str(numerals.value(matched)) if value == "words" else _plain(matched)
        elif matched in ("x", "X") and before not in (Kind.NUMBER, Kind.CLOSE):
            kind = Kind.WORD
        yield Lexeme(kind, value)
        before = kind


def _plain(digits: str) -> str:
    # Python, and calculators that read as it does, refuse 007.
    return re.sub(r"^0+(?=\d)", "", digits.replace(",", ""))
