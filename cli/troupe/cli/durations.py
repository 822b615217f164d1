"""Durations as people write them: `500ms`, `30s`, `1m30s`, `2h`, `3d`; a bare number is seconds."""

import re

import typer

MOST = 315_576_000_000.0
"""Seconds: ten thousand years, as many as a Duration can hold."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+|\d+(?:\.\d+)?")


def looks_like_duration(text: str) -> bool:
    """Whether `parse` takes it."""
    return _WHOLE.fullmatch(text) is not None


def parse(text: str) -> float:
    """Seconds, at most MOST. A usage error where it is no duration."""
    if not looks_like_duration(text):
        raise typer.BadParameter(f"{text!r} is no duration; write for example 500ms, 30s, 1m30s, 2h or 3d")
    parts = _PART.findall(text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else float(text)
    if seconds > MOST:
        raise typer.BadParameter(f"{text} is longer than ten thousand years; write for example 500ms, 30s, 2h or 3d")
    return seconds


def shown(seconds: float) -> str:
    """For people: three digits and the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds:.0f} {unit}"
    raise AssertionError("unreachable")
