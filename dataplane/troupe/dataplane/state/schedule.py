"""What takes its place later: scheduled messages and reminders. Pure: one rule for all backends."""

import math
from dataclasses import replace

from troupe.broker.order import Number, Position
from troupe.dataplane.state.control import Reminder
from troupe.dataplane.state.session import Entry

DUE_AT_ONCE = 1_000
"""Scheduled messages, reminders and promises that one `due` takes, in all, what was due first before the rest."""
REMINDER = "reminder/"
"""What streams of reminders begin with."""


def entering(entry: Entry) -> Entry:
    """What takes its place in the inbox: a scheduled message counts from when it was due."""
    return replace(entry, placed=entry.due, due=0.0) if entry.due else entry


def called_off(entry: Entry) -> Entry:
    """A scheduled message that was settled: due at once, as a SKIP, so that the owner settles its number in order."""
    return replace(entry, skip=True, due=min(entry.due, entry.placed))


def is_occurrence(number: Number) -> bool:
    """Whether it is a reminder's: no other is placed until it is settled, and one that was due meanwhile is then."""
    return number.stream.startswith(REMINDER)


def occurrence(reminder: Reminder, position: Position, now: float) -> Entry:
    """What takes its place of a reminder that is due. `position`: of its stream. What was missed is made up for once:
    it is the newest of what is due."""
    number = Number(reminder.stream, position.settled + 1)
    return Entry(number, f"{number.stream}/{number.sequence}", reminder.digest, placed=_newest(reminder, now))


def following(reminder: Reminder, now: float) -> Reminder | None:
    """The reminder after its occurrence took its place; None where there is no other."""
    return replace(reminder, due=_newest(reminder, now) + reminder.every) if reminder.every else None


def _newest(reminder: Reminder, now: float) -> float:
    if not reminder.every:
        return reminder.due
    return reminder.due + math.floor((now - reminder.due) / reminder.every) * reminder.every
