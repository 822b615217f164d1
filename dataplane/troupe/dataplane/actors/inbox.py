"""Which waiting message may start. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from troupe.broker.order import Number, Place, Position
from troupe.dataplane.state.port import Entry


@dataclass(frozen=True, slots=True)
class Start:
    """This one, now."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Wait:
    """The next one has failed and waits until then; those behind it wait with it."""

    until: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing may start: `missing` has not come."""

    missing: Number


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing waits."""


Choice = Start | Wait | Gap | Empty


def choose(inbox: Sequence[Entry], positions: Mapping[str, Position], now: float) -> Choice:
    """The first entry, in the order of the inbox, whose number comes next in its stream."""
    for entry in inbox:
        position = positions.get(entry.number.stream, Position())
        if position.place(entry.number.sequence) is Place.NEXT:
            return Start(entry) if entry.not_before <= now else Wait(entry.not_before)
    if not inbox:
        return Empty()
    first = inbox[0].number
    settled = positions.get(first.stream, Position()).settled
    return Gap(Number(first.stream, settled + 1))
