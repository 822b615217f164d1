"""Moments as people write them: so long ago (`90s`, `1h30m`, `2d`), or a time such as `2026-11-26T08:30`."""

import time
from datetime import datetime

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from troupe.chassis.wire import seconds
from troupe.cli import durations
from troupe.cli.columns import age, span


def parse(text: str) -> float:
    """Seconds since the epoch. A usage error where it is neither."""
    if durations.looks_like_duration(text):
        return time.time() - durations.parse(text)
    moment = _time(text)
    if moment is None:
        raise typer.BadParameter(
            f"{text!r} is no time; write for example 90s, 1h30m or 2d for so long ago, or 2026-11-26T08:30"
        )
    return moment


def parse_time(text: str) -> float:
    """The same for a time alone."""
    moment = _time(text)
    if moment is None:
        raise typer.BadParameter(f"{text!r} is no time; write for example 2026-11-26T08:30, or 2026-11-26T08:30Z")
    return moment


def shown(moment: Timestamp) -> str:
    """For people: in UTC, to the second, and how long ago, or in how long."""
    if not moment.seconds:
        return "-"
    ahead = seconds(moment) - time.time()
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds(moment)))
    return f"{written} ({f'in {span(ahead)}' if ahead > 0 else f'{age(moment)} ago'})"


def _time(text: str) -> float | None:
    """A time without its zone is of this machine's; None for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
