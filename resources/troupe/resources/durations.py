"""Durations as manifests write them."""

import re
from decimal import Decimal

_FORM = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_NANOSECONDS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_LONGEST = 315_576_000_000 * 10**9
"""What google.protobuf.Duration holds: ten thousand years."""


def canonical(text: str) -> str | None:
    """`30s`, `100ms`, `5m`, `1.5h` in the form of protobuf's JSON mapping (`0.100s`); None where it is none of
    these, finer than a nanosecond, or longer than ten thousand years."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    nanoseconds = Decimal(match[1]) * _NANOSECONDS[match[2]]
    if nanoseconds != int(nanoseconds) or nanoseconds > _LONGEST:
        return None
    seconds, rest = divmod(int(nanoseconds), 10**9)
    return f"{seconds}.{rest:09d}s" if rest else f"{seconds}s"
