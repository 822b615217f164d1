"""Tokens: word pieces that carry their leading space, as the tokenizers of today's models have them.

Lossless: the pieces of a text, joined, are the text. A word of up to eight letters and a number of up to eight digits
are one token each, with the space before it.
"""

import re

_PIECE = re.compile(r" ?(?:[^\W\d_]{1,8}|\d{1,8}|_|[^\w\s])|\s+|\w")


def tokenize(text: str) -> list[str]:
    """The tokens of `text`, in order; none is empty."""
    return _PIECE.findall(text)
