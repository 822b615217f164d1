"""Order within streams: which number may start, which is a duplicate, which waits for a gap. Pure.

A receiver keeps for each stream the last number settled in order and, below it, the gaps: numbers that it passed
over because they seemed lost. A number at or below `settled` that is no gap is a duplicate; a gap that is filled
late may still run, once.
"""

from dataclasses import dataclass
from enum import Enum, auto


class Place(Enum):
    """Where a number stands."""

    SETTLED = auto()
    """A duplicate: it can have no further effect."""
    NEXT = auto()
    """It may start."""
    BEYOND = auto()
    """Something before it is missing."""


@dataclass(frozen=True, slots=True)
class Position:
    """What a receiver knows of one stream."""

    settled: int = 0
    gaps: frozenset[int] = frozenset()

    def place(self, sequence: int) -> Place:
        if sequence <= self.settled:
            return Place.NEXT if sequence in self.gaps else Place.SETTLED
        return Place.NEXT if sequence == self.settled + 1 else Place.BEYOND

    def settle(self, sequence: int) -> "Position":
        """The position after `sequence`, which must be NEXT, was settled."""
        if self.place(sequence) is not Place.NEXT:
            raise ValueError(f"{sequence} cannot be settled after {self.settled}")
        if sequence in self.gaps:
            return Position(self.settled, self.gaps - {sequence})
        return Position(sequence, self.gaps)

    def pass_over(self, count: int = 1) -> "Position":
        """The position after the next `count` numbers were given up as lost."""
        last = self.settled + count
        return Position(last, self.gaps | set(range(self.settled + 1, last + 1)))


@dataclass(frozen=True, slots=True)
class Number:
    """A message's place in its sender's stream to one session."""

    stream: str
    sequence: int
