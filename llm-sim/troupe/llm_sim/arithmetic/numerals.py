"""Numbers written in words, from zero to the billions."""

import re

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_UNITS = dict(zip(_SMALL, range(20), strict=True)) | dict(zip(_TENS, range(20, 100, 10), strict=True))
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}

_unit = "|".join(sorted(_UNITS, key=len, reverse=True))
_scale = "|".join(("hundred", *_SCALES))
_after_scale = "|".join(rf"(?<={scale})" for scale in ("hundred", *_SCALES))
PATTERN = rf"\b(?:{_unit})\b(?:(?:[ -]+(?:{_unit}|{_scale})\b)|(?:{_after_scale}) +and +(?:{_unit})\b){{0,20}}"
"""A number in words as a regular expression, without regard to case:
`two hundred and forty-five thousand`. At most 21 words, so that the number has a bound."""


def value(words: str) -> int:
    """The number that `words`, a match of PATTERN, stand for."""
    total = part = 0
    for word in re.split(r"[ -]+", words.lower()):
        if word == "hundred":
            part *= 100
        elif word in _SCALES:
            total += part * _SCALES[word]
            part = 0
        elif word != "and":
            part += _UNITS[word]
    return total + part
