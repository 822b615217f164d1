"""Moments as people write them: so long ago (`90s`, `1h30m`, `2d`), or a time such as `2026-11-26T08:30`."""

import re
import time
from datetime import datetime

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from troupe.chassis.wire import seconds
from troupe.cli import durations
from troupe.cli.columns import age

_DAYS = re.compile(r"(\d{1,6})d", re.ASCII)


def parse(text: str) -> float:
    """Seconds since the epoch; a time without its zone is of this machine's. A usage error where it is neither."""
    if durations.looks_like_duration(text):
        return time.time() - durations.parse(text)
    if days := _DAYS.fullmatch(text):
        return time.time() - 86_400 * int(days[1])
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is no time; write for example 90s, 1h30m or 2d for so long ago, or 2026-11-26T08:30"
        ) from error


def shown(moment: Timestamp) -> str:
    """For people: in UTC, to the second, and how long ago."""
    if not moment.seconds:
        return "-"
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds(moment)))
    return f"{written} ({age(moment)} ago)"
